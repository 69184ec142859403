"""The service as Ray Serve runs it: `serve run serve.app:build_app`."""

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from viewfinder.addresses import is_loopback
from viewfinder.errors import ConfigurationError
from viewfinder.service.http.api import build_api
from viewfinder.service.http.guard import MAX_ARRIVING, capacity
from viewfinder.service.search_service import SearchService
from viewfinder.service.telemetry import access_log
from viewfinder.service.telemetry.metrics import Metrics, RayInstruments
from viewfinder.settings import Settings

# Requests that a replica can refuse at the same moment, itself and in its own words.
REFUSING = 64


@serve.ingress()
class Replica:
    """Ingress, encoder and batcher in one process: the simplest thing that can change generation in one step."""

    def __init__(self, settings: Settings) -> None:
        _log_to_stderr()
        # Once more, for only here is it certain which proxy runs: builders see another environment than the cluster's.
        refuse_open_doors(settings, fast_proxy=RAY_SERVE_ENABLE_HA_PROXY)
        context = serve.get_replica_context()
        instruments = RayInstruments(application=context.app_name, replica=context.replica_id.unique_id)
        self._service = SearchService.connect(settings, Metrics(instruments))
        self._service.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service, behind_serve=True)

    def __del__(self) -> None:
        # Serve calls this when a replica stops; a constructor that failed has no service yet.
        if service := getattr(self, "_service", None):
            service.close()


def build_app(args: dict[str, Any] | None = None) -> Application:
    """The application for `serve run serve.app:build_app [index=NAME ...]`; arguments override settings.

    Settings are read here, once, and travel to the replicas as values: replicas do not see this environment. Keys
    belong in the environment, for arguments stand in Serve's status and in shell histories.
    """
    settings = Settings.load(**(args or {}))
    refuse_open_doors(settings, fast_proxy=settings.fast_proxy)
    return application(settings)


def refuse_open_doors(settings: Settings, *, fast_proxy: bool) -> None:
    """Raise `ConfigurationError` where strangers could reach a service that asks for no key, without its being wanted.

    Behind the fast proxy each request seems to come from this machine, so the guard could not tell them apart.
    """
    if settings.api_keys or settings.allow_anonymous:
        return
    if fast_proxy:
        where = "Ray Serve's fast proxy (RAY_SERVE_ENABLE_HA_PROXY=1) listens on all addresses"
    elif not is_loopback(settings.host):
        where = f"VIEWFINDER_HOST is {settings.host!r}, which other machines reach"
    else:
        return
    raise ConfigurationError(
        f"{where}, and there are no API keys. Set VIEWFINDER_API_KEYS to the SHA-256 digests of keys, or "
        "VIEWFINDER_ALLOW_ANONYMOUS=1 where whoever reaches the service may search."
    )


def application(settings: Settings) -> Application:
    """The deployment with its replicas, batching and queue as the settings say."""
    most = capacity(settings) + MAX_ARRIVING + REFUSING
    deployment = serve.deployment(
        Replica,
        name="viewfinder",
        # Requests wait in the replica, whose batches they are for, and it says itself when they are too many. Serve's
        # own queue and its answer, which is plain text, come after that: if refusing itself takes too long.
        max_ongoing_requests=most,
        # Many at the same moment count as queued in the proxy while it hands them out: that must not refuse them.
        max_queued_requests=most,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": max(settings.min_replicas, settings.max_replicas),
            "target_ongoing_requests": settings.batch_size,
        },
        ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus},
        graceful_shutdown_timeout_s=settings.request_timeout_s,
        # The service writes a line of its own for each request.
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return deployment.bind(settings)


def _log_to_stderr() -> None:
    """Let a replica's log show what the service says: Ray configures its own loggers only."""
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("serve", "viewfinder"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [lines]
    access_log.logger.handlers = [logging.StreamHandler()]
    access_log.logger.propagate = False
