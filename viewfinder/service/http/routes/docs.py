"""The routes of API documentation (Swagger UI, without a CDN) and of metrics."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import PlainTextResponse

from viewfinder.service.http.keys import require_all_indexes, require_metrics
from viewfinder.service.search_service import SearchService
from viewfinder.service.telemetry.metrics import CachedText

DOCS_DIRECTORY = Path(__file__).resolve().parents[2] / "docs"
PACKAGED_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
OWN_FILES = {"start.js": "text/javascript; charset=utf-8"}


def router(service: SearchService) -> APIRouter:
    """The routes of a service's documentation and metrics."""
    routes = APIRouter()
    # Only the files of the package: its own page has inline scripts, which our policy forbids.
    packaged = files("fastapi_offline") / "static"

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response((DOCS_DIRECTORY / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    @routes.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name in OWN_FILES:
            return Response((DOCS_DIRECTORY / name).read_bytes(), media_type=OWN_FILES[name])
        if name not in PACKAGED_FILES:
            raise HTTPException(404, "No such file.")
        headers = {"cache-control": "public, max-age=86400"}
        return Response((packaged / name).read_bytes(), media_type=PACKAGED_FILES[name], headers=headers)

    text = CachedText(service.metrics.text)

    @routes.get(
        "/metrics",
        tags=["status"],
        dependencies=[Depends(require_metrics), Depends(require_all_indexes)],
        summary="Metrics of all replicas, for Prometheus",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        return Response(await text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
