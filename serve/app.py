"""The service as Ray Serve runs it: `serve run serve.app:build_app`."""

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from serve.api import build_api
from serve.service import SearchService
from viewfinder.errors import ConfigurationError
from viewfinder.settings import Settings

logger = logging.getLogger(__name__)


@serve.ingress()
class Replica:
    """Ingress, encoder and batcher in one process: the simplest thing that can change generation in one step."""

    def __init__(self, settings: Settings) -> None:
        self._service = SearchService.connect(settings)
        self._service.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._service)

    def __del__(self) -> None:
        # Serve calls this when a replica stops; a constructor that failed has no service yet.
        if service := getattr(self, "_service", None):
            service.close()


def build_app(args: dict[str, Any] | None = None) -> Application:
    """The application for `serve run serve.app:build_app [index=NAME ...]`; arguments override settings.

    Settings are read here, once, and travel to the replicas as values: replicas do not see this environment.
    """
    settings = Settings.load(**(args or {}))
    if settings.api_keys or settings.allow_image_url:
        # Better no service than one that its operator believes to be locked.
        raise ConfigurationError(
            "VIEWFINDER_API_KEYS and VIEWFINDER_ALLOW_IMAGE_URL are reserved: this version of the service checks no "
            "keys and fetches no addresses. Unset them, and let only trusted clients reach it."
        )
    return application(settings)


def application(settings: Settings) -> Application:
    """The deployment with its replicas, batching and queue as the settings say."""
    # A replica takes several batches at once: one being encoded, one filling, and what waits for Qdrant.
    ongoing = settings.batch_size * 4
    deployment = serve.deployment(
        Replica,
        name="viewfinder",
        max_ongoing_requests=ongoing,
        max_queued_requests=settings.queue_size,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": max(settings.min_replicas, settings.max_replicas),
            "target_ongoing_requests": settings.batch_size,
        },
        ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus},
        graceful_shutdown_timeout_s=settings.request_timeout_s,
    )
    return deployment.bind(settings)
