"""Running the service on the Ray that this process has joined: `viewfinder serve`."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from viewfinder.errors import ConfigurationError, ViewfinderError, as_sentences
from viewfinder.ray_directory import ray_directory
from viewfinder.service.app import application, require_keys_or_loopback
from viewfinder.settings import Settings

APPLICATION = "viewfinder"
# Name and namespace of the actor that controls Ray Serve.
_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
_SHUTDOWN_S = 30.0
# At the beginning of the last line of a traceback.
_ERROR_CLASS = re.compile(r"^(\w+\.)+\w*(Error|Exception): ")


def build(settings: Settings) -> Application:
    """The application; raises `ConfigurationError` if other machines could reach a service without API keys."""
    require_keys_or_loopback(settings, fast_proxy=settings.fast_proxy)
    return application(settings)


@contextmanager
def serving(app: Application, host: str, port: int, begin: Callable[[str], None] = lambda phase: None) -> Iterator[str]:
    """Serve the application at `host` and `port` while the block runs; yields its address when it is ready.

    `begin` is called with the name of each phase.
    """
    if serve.status().applications:
        raise ConfigurationError(
            "A service already runs on this Ray, which has one port for all services. End it first, or start this one "
            "with another VIEWFINDER_DATA_DIR."
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        with translate_start_errors():
            begin("starting Ray Serve")
            serve.start(http_options={"host": host, "port": port})
            begin("starting a replica and loading its model")
            serve.run(app, name=APPLICATION, route_prefix="/")
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        _shut_down_serve()


def _shut_down_serve() -> None:
    """End Ray Serve and wait until its controller is gone.

    `serve.shutdown` waits in a call that ends when the controller is killed, which Ray reports as a failed task.
    """
    with suppress(ValueError, RayError):  # there is no controller, or it has ended
        controller = ray.get_actor(*_CONTROLLER)
        ray.get(controller.graceful_shutdown.remote(wait=False), timeout=_SHUTDOWN_S)
        deadline = time.monotonic() + _SHUTDOWN_S
        while time.monotonic() < deadline:
            ray.get_actor(*_CONTROLLER)
            time.sleep(0.1)
    serve.shutdown()


@contextmanager
def translate_start_errors() -> Iterator[None]:
    """Turn the errors of a Ray Serve that does not start, or not in time, into one `ViewfinderError`."""
    try:
        yield
    except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
        # Only the first line: Serve appends the traceback of the replica.
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if (of_replica := why_not_deployed()) is not None:
            reason = of_replica
        elif isinstance(error, TimeoutError):
            reason = as_sentences(reason, "Try again when the machine is less busy.")
        logs = f"Ray's logs are in {ray_directory()}/session_latest/logs/serve."
        raise ViewfinderError(as_sentences(f"The service did not start on Ray Serve: {reason}", logs)) from error


def why_not_deployed() -> str | None:
    """Return the error of a replica that could not start: Serve's own names none."""
    if not ray.is_initialized():  # otherwise `serve.status` would start a Ray
        return None
    with suppress(RayError, RayServeException, RuntimeError, KeyError):
        for deployment in serve.status().applications[APPLICATION].deployments.values():
            if lines := [line.strip() for line in deployment.message.splitlines() if line.strip()]:
                return _ERROR_CLASS.sub("", lines[-1])
    return None
