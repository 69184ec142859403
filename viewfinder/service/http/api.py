"""The FastAPI application: its routes and middleware. Runs without Ray."""

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from viewfinder.service.http.errors import install_error_handlers
from viewfinder.service.http.guard import Guard
from viewfinder.service.http.head import HeadAsGet
from viewfinder.service.http.openapi import complete_schema
from viewfinder.service.http.parameters import check_parameters
from viewfinder.service.http.routes import (
    content,
    docs,
    embedding,
    images,
    indexing,
    openai,
    page,
    ranking,
    reranking,
    search,
    status,
)
from viewfinder.service.inputs import InputBudget
from viewfinder.service.search_service import SearchService
from viewfinder.service.telemetry.access_log import AccessLog

DESCRIPTION = "Describe what you are looking for, get the images."


def build_api(service: SearchService, *, behind_serve: bool = False) -> FastAPI:
    """The application over one replica's service; behind Serve, the proxies add the request id to responses."""
    api = FastAPI(
        title="viewfinder",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        # Behind a proxy that terminates TLS, a redirect would lead to http and send the key in the clear.
        redirect_slashes=False,
        # FastAPI's own would record what users have sent. Older releases have none, and ignore it.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    api.state.indexes = service.indexes
    install_error_handlers(api)
    budget = InputBudget()
    plain = (embedding, ranking, indexing, images, content, status, docs, page)
    routers = [routes.router(service) for routes in plain]
    for router in (search.router(), *routers, openai.router(service, budget), reranking.router(service, budget)):
        api.include_router(router, dependencies=[Depends(check_parameters)])
    complete_schema(api, keyed=bool(service.settings.api_keys) and not service.settings.allow_anonymous)
    # The middleware added last is the outermost: the log sees every request, and refusals get CORS headers too.
    api.add_middleware(HeadAsGet)
    api.add_middleware(Guard, settings=service.settings, metrics=service.metrics, links=service.links)
    if service.settings.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            # Not DELETE: pages of other sites cannot take images down.
            allow_methods=["GET", "POST"],
            # Of any name: OpenAI's SDK sends x-stainless-os and others. The service reads few, and no cookies.
            allow_headers=["*"],
            expose_headers=["retry-after", "traceresponse", "x-request-id"],
        )
    api.add_middleware(AccessLog, count=service.metrics.request, sends_id=not behind_serve)
    return api
