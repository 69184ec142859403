"""The Ray Serve application: one deployment whose replicas are ingress, encoder and batcher in one process."""

import gc
import secrets
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from ray import serve
from ray.serve import Application
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY, RAY_SERVE_LOG_TO_STDERR
from ray.serve._private.logging_utils import get_serve_logs_dir
from ray.serve.config import AutoscalingPolicy, BackpressureConfig
from ray.serve.schema import LoggingConfig

from viewfinder import tracing
from viewfinder.addresses import is_loopback
from viewfinder.errors import ConfigurationError
from viewfinder.extras import packages_of
from viewfinder.service.http.api import build_api
from viewfinder.service.http.guard import MAX_INCOMING, capacity
from viewfinder.service.http.keys import KeyRing
from viewfinder.service.scaling import PENDING, scale_by_items
from viewfinder.service.search_service import SearchService
from viewfinder.service.telemetry.log_files import open_logs
from viewfinder.service.telemetry.metrics import Metrics, RayInstruments
from viewfinder.settings import Settings

# Requests above its capacity that a replica can refuse at the same moment, with its own error body.
MAX_REFUSING = 64


def build_app(args: dict[str, Any] | None = None) -> Application:
    """The application for `serve run serve.app:build_app [index=NAME ...]`; arguments override settings.

    Settings are read here, once, and sent to the replicas, which do not see this environment. Pass keys in the
    environment: arguments are visible in Serve's status and in shell histories.
    """
    settings = Settings.load(**(args or {}))
    require_keys_or_loopback(settings, fast_proxy=settings.fast_proxy)
    return application(settings)


def application(settings: Settings) -> Application:
    """The deployment with replicas, batching and queue from the settings.

    Raises `ConfigurationError` for the filter of an API key that cannot be parsed, and for an index that is named
    alone, but not among those of the service.
    """
    if "index" in settings.model_fields_set and settings.index not in settings.served_indexes:
        raise ConfigurationError(
            f"VIEWFINDER_INDEX (--index) is {settings.index!r}, which is not in VIEWFINDER_INDEXES "
            f"({', '.join(settings.indexes)}). Add it there, or leave it out."
        )
    KeyRing(settings.api_keys)  # here already: a replica that fails to start is started again and again
    max_requests = capacity(settings) + MAX_INCOMING + MAX_REFUSING
    deployment = serve.deployment(
        Replica,
        name="viewfinder",
        # Requests wait in the replica that batches them, which refuses too many with an error body of its own. Serve's
        # queue and its plain text answer only take effect if refusing itself takes too long.
        max_ongoing_requests=max_requests,
        # The proxy counts simultaneous requests as queued while it assigns them, and must not refuse them for that.
        max_queued_requests=max_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": max(settings.min_replicas, settings.max_replicas),
            "target_ongoing_requests": settings.batch_size,
            "policy": AutoscalingPolicy(policy_function=scale_by_items),
        },
        ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus},
        graceful_shutdown_timeout_s=settings.request_timeout_s,
        # The service writes its own line for each request.
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return deployment.bind(with_cursor_key(settings))


def with_cursor_key(settings: Settings) -> Settings:
    """The settings with a key for cursors, made once so that all replicas accept each other's cursors."""
    if settings.cursor_keys:
        return settings
    return settings.model_copy(update={"cursor_keys": (SecretStr(secrets.token_hex(32)),)})


@serve.ingress()
class Replica:
    """One process that serves HTTP, encodes and searches, so that it can switch generations in one assignment."""

    def __init__(self, settings: Settings) -> None:
        context = serve.get_replica_context()
        open_logs(Path(get_serve_logs_dir()), context.replica_id.unique_id, to_stderr=RAY_SERVE_LOG_TO_STDERR)
        # Checked again: only a replica knows which proxy runs, because the builder may have another environment.
        require_keys_or_loopback(settings, fast_proxy=RAY_SERVE_ENABLE_HA_PROXY)
        if settings.traces:
            start_traces()
        instruments = RayInstruments(application=context.app_name, replica=context.replica_id.unique_id)
        self._service = SearchService.connect(settings, Metrics(instruments))
        self._service.start()
        # The modules and models that stay make each full collection of garbage take 100 ms of the event loop.
        gc.collect()
        gc.freeze()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The replica's part in `scale_by_items`; Ray Serve calls it."""
        return {PENDING: float(self._service.pending())}

    def check_health(self) -> None:
        """Raise if this replica must be replaced; Ray Serve calls it every ten seconds."""
        self._service.follower.check()

    def __serve_build_asgi_app__(self) -> Any:
        api = build_api(self._service, behind_serve=True)
        api.openapi()  # made now: it takes 80 ms, which a request would take from all others
        return api

    def __del__(self) -> None:
        # Serve calls this when a replica stops, also after a constructor that failed.
        if service := getattr(self, "_service", None):
            service.close()
        tracing.stop()


def start_traces() -> None:
    """Export spans from this process. Raises `ConfigurationError` if the packages are missing."""
    with packages_of("telemetry", "VIEWFINDER_TRACES"):
        tracing.start()


def require_keys_or_loopback(settings: Settings, *, fast_proxy: bool) -> None:
    """Raise `ConfigurationError` if other machines could reach a service without API keys by accident.

    Behind the fast proxy every request seems to come from this machine, so the guard cannot recognize other machines.
    """
    if settings.api_keys or settings.allow_anonymous:
        return
    if fast_proxy:
        where = "Ray Serve's fast proxy (RAY_SERVE_ENABLE_HA_PROXY=1) listens on all addresses"
    elif not is_loopback(settings.host):
        where = f"VIEWFINDER_HOST is {settings.host!r}, which other machines can reach"
    else:
        return
    raise ConfigurationError(
        f"{where}, and there are no API keys. Set VIEWFINDER_API_KEYS to the SHA-256 digests of keys, or "
        "VIEWFINDER_ALLOW_ANONYMOUS=1 to allow searches without a key."
    )
