"""Error responses: every exception becomes a status, a stable code, a message without internals, and a hint."""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from viewfinder.client.results import ErrorDetail, ErrorResponse
from viewfinder.errors import (
    CollectionMissingError,
    FilterError,
    KeyFilterError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    WordsUnavailableError,
)
from viewfinder.query.errors import (
    CollectionGoneError,
    CursorError,
    QueryError,
    QueryImageError,
    RelevanceError,
    UnknownImageError,
)
from viewfinder.query.images import OverloadedError
from viewfinder.query.validation import OWN_MESSAGE, describe_errors
from viewfinder.service.generation.follower import NoIndexError, NotReadyError, UnhealthyError
from viewfinder.service.indexes import UnknownIndexError
from viewfinder.service.new_images import UploadsDisabledError
from viewfinder.service.telemetry import access_log

logger = logging.getLogger(__name__)

INDEX_HINT = "Index images: viewfinder index s3://bucket/prefix"
MODEL_HINT = "Make the weights of the live model available to the service, or roll back: viewfinder reindex --rollback"
UPLOADS_HINT = "Set VIEWFINDER_UPLOADS_URI to an S3 prefix, or send the URIs of images in sources of the index."
DOCS_HINT = "GET /docs lists every route and field with its bounds."

JSON_HINT = "Send a JSON object in UTF-8 that is not nested too deeply."
# FastAPI's message for bytes that are not UTF-8, and for JSON that is too deep, or has too large a number, to parse.
UNREADABLE = "There was an error parsing the body"

# Reasons of `QueryImageError` that are codes: the address of the image is wrong, not its content.
ADDRESS_ERRORS = frozenset({"forbidden_address", "fetch_failed", "image_url_disabled"})

# OpenAI's names for kinds of errors, other than `invalid_request_error` and `server_error`.
_OPENAI_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Messages about a field begin with it.
_FIELD_PREFIX = re.compile(r"([a-z_]{1,40}(?:\.\w{1,40}){0,9}): ")

# Messages repeat names from the request, which may be as long as its body.
MAX_MESSAGE = 1000


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        400: "The body is not JSON, a parameter's name, the filter or the order is invalid, or hits have no relevance.",
        422: "A field of the request is missing, unknown or out of bounds.",
        503: "There is no index yet, or the store is unavailable; retry after `Retry-After` seconds.",
        504: "The search exceeded the service's time limit.",
    }.items()
}


class HTTPError(HTTPException):
    """An error response: status, stable code, message and hint.

    An `HTTPException`, because FastAPI replaces other errors while it reads a body.
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


def install_error_handlers(api: FastAPI) -> None:
    """Give FastAPI's own errors our error body; the guard handles everything else that a route raises."""

    async def handler(request: Request, error: Exception) -> JSONResponse:
        answered = refusal(request, error)
        answer = error_response(request.state.id, answered)
        if answered.status == 405:
            answer.headers["allow"] = _allowed(request) or answer.headers["allow"]
        return answer

    api.add_exception_handler(HTTPException, handler)
    api.add_exception_handler(RequestValidationError, handler)


def refusal(request: Request, error: Exception) -> HTTPError:
    """As `http_error_of`, also for FastAPI's own errors of a body or a parameter."""
    if isinstance(error, RequestValidationError):
        return _invalid_request(request, error)
    if isinstance(error, HTTPException) and error.detail == UNREADABLE and not _is_form(request):
        return HTTPError(400, "invalid_json", "The body cannot be parsed as JSON.", JSON_HINT)
    return http_error_of(error)


def http_error_of(error: Exception) -> HTTPError:
    """The response to an exception. Errors that the client did not cause are logged."""
    match error:
        case HTTPError():
            return error
        case HTTPException():
            return _http_error(error)
        case FilterError():
            return HTTPError(400, "invalid_filter", str(error), "GET /docs: POST /v1/search, `filter`.")
        case KeyFilterError():
            # Not its text: it lists the fields of the index.
            logger.error("%s", error)
            message = "The filter of this API key does not fit the index, so the key sees nothing."
            return HTTPError(403, "key_filter_mismatch", message, "Ask who runs the service: its log has the reason.")
        case CursorError():
            return HTTPError(400, "invalid_cursor", error.message, error.hint)
        case CollectionGoneError():
            return HTTPError(410, "collection_gone", error.message, error.hint)
        case UnknownImageError():
            return HTTPError(404, "not_found", error.message, error.hint)
        case QueryImageError():
            return _unusable_image(error)
        case RelevanceError():
            return HTTPError(400, "no_relevance", error.message, error.hint)
        case UploadsDisabledError():
            return HTTPError(422, "uploads_disabled", str(error), UPLOADS_HINT)
        case QueryError():
            return HTTPError(422, "invalid_request", error.message, error.hint or DOCS_HINT)
        case UnknownIndexError():
            hint = "GET /v1/indexes lists the indexes that a key may see."
            return HTTPError(404, "index_not_found", str(error), hint)
        case NoIndexError():
            return HTTPError(503, "no_index", str(error), INDEX_HINT, retry_after_s=5)
        case NotReadyError():
            return HTTPError(503, "not_ready", str(error), "Try again shortly.", retry_after_s=5)
        case UnhealthyError():
            return HTTPError(503, "model_unavailable", str(error), MODEL_HINT, retry_after_s=5)
        case CollectionMissingError():
            message = "The collection was replaced, and the next one is not loaded yet."
            return HTTPError(503, "not_ready", message, "Try again shortly.", retry_after_s=5)
        case OverloadedError():
            return HTTPError(503, "overloaded", str(error), "Try again shortly.", retry_after_s=1)
        case StoreTimeoutError():
            logger.error("%s", error)
            hint = (
                "Try again. If there is a filter, narrow it. VIEWFINDER_SEARCH_TIMEOUT_S of the service is the limit."
            )
            return HTTPError(504, "timeout", "The vector store did not answer in time.", hint)
        case StoreUnavailableError():
            logger.error("%s", error)
            return HTTPError(
                503, "store_unavailable", "The vector store is unavailable.", "Try again shortly.", retry_after_s=5
            )
        case WordsUnavailableError():
            return HTTPError(422, "words_unavailable", str(error), "Search with rank 'clip'.")
        case StoreError():
            logger.error("%s", error)
            return HTTPError(500, "store_error", "The vector store refused the request.", "See the service's log.")
        case TimeoutError():
            return HTTPError(
                504, "timeout", "The request took too long.", "Try again. If there is a filter, narrow it."
            )
    logger.error("Unexpected error", exc_info=error)
    return HTTPError(500, "internal_error", "Internal error.", "See the service's log.")


def error_response(request_id: str, error: HTTPError) -> JSONResponse:
    """The response, with its code recorded in the access log."""
    if record := access_log.current.get():
        record.code = error.code
    detail = asdict(error_detail(request_id, error))
    return JSONResponse({"error": detail}, status_code=error.status, headers=error.headers)


def error_detail(request_id: str, error: HTTPError) -> ErrorDetail:
    """The error in a response."""
    message = _clean(error.message)
    field = _FIELD_PREFIX.match(message) if error.status in (400, 404, 413, 422) else None
    return ErrorDetail(
        code=error.code,
        message=message,
        hint=error.hint,
        request_id=request_id,
        type=_OPENAI_ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error"),
        param=field.group(1) if field else None,
    )


def _invalid_request(request: Request, error: RequestValidationError) -> HTTPError:
    details = error.errors()
    for detail in details:
        if detail["type"] == "json_invalid":
            return HTTPError(400, "invalid_json", "The body is not JSON.", JSON_HINT)
        if detail["loc"] == ("body",) and isinstance(error.body, bytes):
            # FastAPI passes a body of another type on as bytes, and then reports that bytes are not an object.
            return HTTPError(
                415,
                "unsupported_media_type",
                f"The body is {request.headers.get('content-type', 'of no type')!r}, not JSON.",
                "Send Content-Type: application/json.",
            )
    problems = describe_errors([_without_place(detail) for detail in details])
    return HTTPError(422, "invalid_request", problems, DOCS_HINT)


def _without_place(detail: Any) -> Any:
    """The detail of an error, with its path counted from the body, the query string or the form."""
    place, *path = detail["loc"]
    return {**detail, "loc": path if path or detail["type"] == OWN_MESSAGE else [place]}


def _unusable_image(error: QueryImageError) -> HTTPError:
    if error.reason == "too_many_bytes":
        return HTTPError(413, "body_too_large", error.message, error.hint)
    return HTTPError(
        422, error.reason if error.reason in ADDRESS_ERRORS else "invalid_image", error.message, error.hint
    )


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form-urlencoded"))


def _http_error(error: HTTPException) -> HTTPError:
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_body" if error.status_code < 500 else "internal_error")
    return HTTPError(error.status_code, code, str(error.detail), DOCS_HINT, headers=error.headers)


def _allowed(request: Request) -> str:
    """All methods of the path: FastAPI lists only those of the first route with this path."""
    path = getattr(request.scope.get("route"), "path", "")
    methods = {method.upper() for method in request.app.openapi()["paths"].get(path, {})}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def _clean(message: str) -> str:
    """The message without lone surrogates, which JSON allows and UTF-8 does not, and shortened."""
    text = message.encode(errors="replace").decode()
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ..."
