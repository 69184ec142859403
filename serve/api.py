"""The HTTP interface: routes, and errors in one shape. Plain FastAPI, testable without a cluster."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi import Query as QueryParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.schemas import (
    ErrorResponse,
    HitBody,
    Limit,
    Offset,
    SearchRequest,
    SearchResponse,
    StatsResponse,
    Target,
    Text,
)
from serve.service import Found, NotReadyError, Query, SearchService
from viewfinder.errors import FilterError, StoreError, StoreUnavailableError
from viewfinder.store import Hit

logger = logging.getLogger(__name__)

DESCRIPTION = "Describe what you are looking for, get the images."
INDEX_HINT = "Index a bucket: python jobs/index.py --source s3://bucket/prefix"

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The body is no JSON, or the filter cannot be understood.",
        422: "A field of the request is missing, unknown or out of bounds.",
        503: "There is no index yet, or the store cannot be reached; try again after `Retry-After` seconds.",
        504: "The search took longer than the service's time limit.",
    }.items()
}


class Refusal(Exception):
    """An answer other than success: status, stable code, and what to do."""

    def __init__(self, status: int, code: str, message: str, hint: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s


def build_api(service: SearchService) -> FastAPI:
    """The application over one replica's service."""
    api = FastAPI(title="viewfinder", description=DESCRIPTION, version="1", redoc_url=None)
    api.middleware("http")(_identify)
    _answer_errors(api)

    @api.post("/v1/search", responses=ERRORS, summary="Find pictures by a description")
    async def search(body: SearchRequest) -> SearchResponse:
        return await _search(service, body)

    @api.get("/v1/search", responses=ERRORS, summary="The same, for a browser's address bar")
    async def search_by_address(
        q: Annotated[Text, QueryParameter()],
        limit: Annotated[Limit, QueryParameter()] = 10,
        offset: Annotated[Offset, QueryParameter()] = 0,
        target: Annotated[Target, QueryParameter()] = "image",
    ) -> SearchResponse:
        return await _search(
            service, SearchRequest(text=q, limit=limit, offset=offset, target=target, filter=None, score_threshold=None)
        )

    @api.get("/v1/stats", responses={503: ERRORS[503]}, summary="What this replica serves")
    async def stats() -> StatsResponse:
        generation = service.generation()
        metadata = generation.collection.metadata
        return StatsResponse(
            index=generation.collection.index,
            model=generation.model,
            fingerprint=metadata.fingerprint,
            dimension=metadata.dimension,
            collection=generation.collection.name,
            points=await service.points(generation),
            state=metadata.state,
            created_at=metadata.created_at,
            problem=service.follower.problem,
        )

    @api.get("/healthz", summary="Whether the process works")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", responses={503: ERRORS[503]}, summary="Whether queries can be answered")
    async def readyz() -> dict[str, str | None]:
        generation = service.generation()
        return {"status": "ready", "collection": generation.collection.name, "problem": service.follower.problem}

    return api


async def _search(service: SearchService, body: SearchRequest) -> SearchResponse:
    if body.target == "both" and body.score_threshold is not None:
        raise Refusal(
            422,
            "invalid_request",
            "score_threshold: cannot go with target 'both'.",
            "The order there is by rank, not by score.",
        )
    query = Query(**{name: getattr(body, name) for name in Query.__dataclass_fields__})
    async with asyncio.timeout(service.request_timeout_s):
        found = await service.search(query)
    return _response(found)


def _response(found: Found) -> SearchResponse:
    warnings = []
    if found.cut:
        context = found.generation.encoder.context_length
        warnings.append(
            f"The text is longer than the model reads: {found.cut} tokens beyond the first {context} were left out."
        )
    return SearchResponse(
        hits=[_hit(hit) for hit in found.hits],
        model=found.generation.model,
        collection=found.generation.collection.name,
        took_ms=round(found.took_ms, 2),
        warnings=warnings,
    )


def _hit(hit: Hit) -> HitBody:
    payload = dict(hit.payload)
    known = {name: payload.get(name) for name in ("caption", "width", "height")}
    return HitBody(id=hit.id, score=hit.score, uri=payload.get("uri", ""), payload=payload, **known)


async def _identify(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Give each request an id, the client's own where it sent one, and log one line about it."""
    given = request.headers.get("x-request-id", "")
    request.state.id = given if 0 < len(given) <= 128 and given.isprintable() else uuid.uuid4().hex
    began = time.perf_counter()
    response = await call_next(request)
    response.headers["x-request-id"] = request.state.id
    elapsed_ms = (time.perf_counter() - began) * 1000
    logger.info(
        "%s %s %s %d %.1f ms", request.state.id, request.method, request.url.path, response.status_code, elapsed_ms
    )
    return response


def _answer_errors(api: FastAPI) -> None:
    """Every exception becomes a code, a text that leaks nothing, and a hint."""

    def handle(kind: type[Exception], refuse: Callable[[Any], Refusal]) -> None:
        async def handler(request: Request, error: Exception) -> JSONResponse:
            return _refused(request, refuse(error))

        api.add_exception_handler(kind, handler)

    handle(Refusal, lambda error: error)
    handle(RequestValidationError, _invalid)
    handle(HTTPException, _unrouted)
    handle(FilterError, lambda error: Refusal(400, "invalid_filter", str(error), "docs: POST /v1/search, `filter`."))
    handle(NotReadyError, lambda error: Refusal(503, "no_index", str(error), INDEX_HINT, retry_after_s=5))
    handle(StoreUnavailableError, _store_away)
    handle(StoreError, _store_failed)
    handle(
        TimeoutError,
        lambda error: Refusal(504, "timeout", "The search took too long.", "Try again, or narrow the filter."),
    )
    handle(Exception, _unexpected)


def _invalid(error: RequestValidationError) -> Refusal:
    problems = []
    for detail in error.errors():
        if detail["type"] == "json_invalid":
            return Refusal(
                400, "invalid_json", "The body is not JSON.", "Send Content-Type: application/json and a JSON object."
            )
        field = ".".join(str(part) for part in detail["loc"][1:]) or "body"
        problems.append(f"{field}: {detail['msg']}")
    return Refusal(422, "invalid_request", "; ".join(problems), "GET /docs shows every field with its bounds.")


def _unrouted(error: HTTPException) -> Refusal:
    codes = {404: "not_found", 405: "method_not_allowed"}
    return Refusal(
        error.status_code, codes.get(error.status_code, "http_error"), str(error.detail), "GET /docs lists the routes."
    )


def _store_away(error: StoreUnavailableError) -> Refusal:
    logger.error("%s", error)
    return Refusal(
        503, "store_unavailable", "The vector store cannot be reached.", "Try again shortly.", retry_after_s=5
    )


def _store_failed(error: StoreError) -> Refusal:
    logger.error("%s", error)
    return Refusal(500, "store_error", "The vector store refused the request.", "The service's log has the reason.")


def _unexpected(error: Exception) -> Refusal:
    logger.error("Unexpected error", exc_info=error)
    return Refusal(500, "internal_error", "Something went wrong in the service.", "The service's log has the reason.")


def _refused(request: Request, refusal: Refusal) -> JSONResponse:
    headers = {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
    request_id = getattr(request.state, "id", "")
    error = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint, "request_id": request_id}
    return JSONResponse({"error": error}, status_code=refusal.status, headers=headers)
