"""Answers other than success: every exception becomes a status, a stable code, a text that leaks nothing, a hint."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from viewfinder.errors import FilterError, StoreError, StoreUnavailableError
from viewfinder.service.generation.generation import NoIndexError, NotReadyError
from viewfinder.service.http.schemas import ErrorResponse
from viewfinder.service.images.query_images import OverloadedError
from viewfinder.service.telemetry import access_log

logger = logging.getLogger(__name__)

INDEX_HINT = "Index a bucket: python jobs/index.py --source s3://bucket/prefix"
DOCS_HINT = "GET /docs shows every route and field with its bounds."

JSON_HINT = "Send a JSON object in UTF-8, with no more levels and digits than one needs."
# What FastAPI says of bytes that are no UTF-8, and of JSON too deep or with too large a number for Python's parser.
UNREADABLE = "There was an error parsing the body"

# A message repeats names that the client chose, which may be as long as a body.
LONGEST_MESSAGE = 1000

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The body is no JSON, or the filter cannot be understood.",
        422: "A field of the request is missing, unknown or out of bounds.",
        503: "There is no index yet, or the store cannot be reached; try again after `Retry-After` seconds.",
        504: "The search took longer than the service's time limit.",
    }.items()
}


class Refusal(HTTPException):
    """An answer other than success: status, stable code, and what to do.

    An `HTTPException`, for FastAPI lets one through where it turns other errors into its own.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str,
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        wait = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
        super().__init__(status, message, {**(headers or {}), **wait})
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s


def answer_errors(api: FastAPI) -> None:
    """Replace FastAPI's own shapes of an error; all else that a route raises is answered by the guard around it."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestValidationError):
            refusal = _invalid(request, error)
        elif isinstance(error, HTTPException) and error.detail == UNREADABLE and not _is_form(request):
            refusal = Refusal(400, "invalid_json", "The body is not JSON that can be read.", JSON_HINT)
        else:
            refusal = refusal_of(error)
        answer = refused(request.state.id, refusal)
        if refusal.status == 405:
            answer.headers["allow"] = _allowed(request) or answer.headers["allow"]
        return answer

    api.add_exception_handler(HTTPException, handler)
    api.add_exception_handler(RequestValidationError, handler)


def refusal_of(error: Exception) -> Refusal:
    """What to answer when this was raised. What a client cannot have caused goes to the log."""
    match error:
        case Refusal():
            return error
        case HTTPException():
            return _unrouted(error)
        case FilterError():
            return Refusal(400, "invalid_filter", str(error), "GET /docs: POST /v1/search, `filter`.")
        case NoIndexError():
            return Refusal(503, "no_index", str(error), INDEX_HINT, retry_after_s=5)
        case NotReadyError():
            return Refusal(503, "not_ready", str(error), "Try again shortly.", retry_after_s=5)
        case OverloadedError():
            return Refusal(503, "overloaded", str(error), "Try again shortly.", retry_after_s=1)
        case StoreUnavailableError():
            logger.error("%s", error)
            return Refusal(
                503, "store_unavailable", "The vector store cannot be reached.", "Try again shortly.", retry_after_s=5
            )
        case StoreError():
            logger.error("%s", error)
            return Refusal(
                500, "store_error", "The vector store refused the request.", "The service's log has the reason."
            )
        case TimeoutError():
            return Refusal(504, "timeout", "The request took too long.", "Try again, or narrow the filter.")
    logger.error("Unexpected error", exc_info=error)
    return Refusal(500, "internal_error", "Something went wrong in the service.", "The service's log has the reason.")


def refused(request_id: str, refusal: Refusal) -> JSONResponse:
    """The answer itself, noted for the request's line in the log."""
    if record := access_log.current.get():
        record.code = refusal.code
    error = {"code": refusal.code, "message": _clean(refusal.message), "hint": refusal.hint, "request_id": request_id}
    return JSONResponse({"error": error}, status_code=refusal.status, headers=refusal.headers)


def _invalid(request: Request, error: RequestValidationError) -> Refusal:
    problems = []
    for detail in error.errors():
        if detail["type"] == "json_invalid":
            return Refusal(400, "invalid_json", "The body is not JSON.", JSON_HINT)
        if detail["loc"] == ("body",) and isinstance(error.body, bytes):
            # FastAPI hands the body on as it came when its type is not JSON, and finds that bytes are no object.
            return Refusal(
                415,
                "unsupported_media_type",
                f"The body is {request.headers.get('content-type', 'of no type')!r}, not JSON.",
                "Send Content-Type: application/json.",
            )
        field = ".".join(str(part) for part in detail["loc"][1:]) or str(detail["loc"][0])
        problems.append(f"{field}: {detail['msg'].removeprefix('Value error, ')}")
    return Refusal(422, "invalid_request", "; ".join(problems), DOCS_HINT)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form-urlencoded"))


def _unrouted(error: HTTPException) -> Refusal:
    codes = {400: "invalid_body", 404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "http_error")
    return Refusal(error.status_code, code, str(error.detail), DOCS_HINT, headers=error.headers)


def _allowed(request: Request) -> str:
    """All methods of the path: FastAPI names only those of the first of the routes that share it."""
    path = getattr(request.scope.get("route"), "path", "")
    return ", ".join(method.upper() for method in request.app.openapi()["paths"].get(path, {}))


def _clean(message: str) -> str:
    """Without what UTF-8 cannot say (halves of surrogate pairs, which JSON can), and not longer than one reads."""
    text = message.encode(errors="replace").decode()
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
