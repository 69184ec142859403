"""The published description of the interface: what FastAPI derives from the routes, and what holds for all of them."""

from typing import Any

from fastapi import FastAPI

from viewfinder.service.http.guard import is_open

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as most clients send one."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}

# By status: in a word, and its codes, each with a message and a hint as an example.
ERRORS: dict[int, tuple[str, dict[str, tuple[str, str]]]] = {
    400: (
        "The body, the filter or the cursor cannot be understood.",
        {
            "invalid_json": ("The body is not JSON.", "Send a JSON object in UTF-8."),
            "invalid_body": ("Missing boundary in multipart.", "GET /docs shows every route and field."),
            "invalid_filter": ("Unknown field 'colour'.", "GET /docs: POST /v1/search, `filter`."),
            "invalid_cursor": ("The cursor is not one of this service.", "Begin again without a cursor."),
        },
    ),
    401: (
        "There is no API key, or an unknown one.",
        {"unauthorized": ("An API key is needed.", "Send Authorization: Bearer KEY, or X-API-Key: KEY.")},
    ),
    403: (
        "The key may not do this; or there are no keys, and the client is not on the service's own machine.",
        {"forbidden": ("This needs an admin key.", "Ask with a key that is listed with ':admin'.")},
    ),
    404: (
        "There is no such thing.",
        {
            "not_found": ("Not Found", "GET /docs shows every route and field."),
            "object_missing": ("The picture is no longer in its bucket.", "Run the index job with --prune."),
        },
    ),
    408: (
        "The body did not arrive in time.",
        {"body_too_slow": ("The body did not arrive within 30 seconds.", "Send a smaller picture.")},
    ),
    410: (
        "The collection of the cursor is gone.",
        {"collection_gone": ("The cursor's collection is gone.", "Begin again without a cursor.")},
    ),
    413: (
        "The body is too large.",
        {"body_too_large": ("The body is larger than 31,457,280 bytes.", "Send a smaller picture.")},
    ),
    415: (
        "The body is of another media type.",
        {"unsupported_media_type": ("The body is 'text/plain', not JSON.", "Send Content-Type: application/json.")},
    ),
    422: (
        "A field of the request is missing, unknown, or out of bounds; or a picture cannot be had or read.",
        {
            "invalid_request": ("limit: Input should be less than or equal to 200", "GET /docs shows every field."),
            "invalid_image": ("image: not a picture that can be read.", "Send JPEG, PNG, WebP, GIF, BMP or TIFF."),
        },
    ),
    429: ("The key asks too often.", {"rate_limited": ("Too many requests.", "Ask again after Retry-After.")}),
    500: (
        "Something went wrong in the service.",
        {"internal_error": ("Something went wrong in the service.", "The service's log has the reason.")},
    ),
    502: (
        "The bucket does not let the service read the picture.",
        {
            "bucket_refused": (
                "The bucket does not let the service read the picture (access_denied).",
                "The service's credentials need s3:GetObject on it.",
            )
        },
    ),
    503: (
        "Too many requests wait, there is no index yet, or the store is away; `Retry-After` says when to ask again.",
        {
            "overloaded": ("Too many requests are waiting.", "Try again shortly."),
            "no_index": ("There is no index 'images' yet.", "Index a bucket: python jobs/index.py --source s3://b/p"),
            "not_ready": ("The service is still loading its model.", "Try again shortly."),
            "store_unavailable": ("The vector store cannot be reached.", "Try again shortly."),
            "bucket_unavailable": ("The bucket cannot be read right now.", "Try again shortly."),
        },
    ),
    504: (
        "The answer took longer than the service's time limit.",
        {"timeout": ("The request took too long.", "Try again, or narrow the filter.")},
    ),
}

WITH_A_BODY = (400, 408, 413, 415)
STATUSES_OF_OPEN = (403, 500)
STATUSES_OF_ALL = (401, 403, 429, 500, 503, 504)
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}
REQUEST_ID = {"X-Request-ID": {"description": "The client's own, or a new one.", "schema": {"type": "string"}}}


def describe(api: FastAPI, *, keyed: bool) -> None:
    """Let `GET /openapi.json` tell of keys, and of every error that a route can give, with examples.

    `keyed`: whether the service asks for keys at all.
    """
    derive = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            _complete(derive(), keyed=keyed)
        return api.openapi_schema or {}

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(schema: dict[str, Any], *, keyed: bool) -> None:
    components = schema.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            # An empty alternative says that a key may be absent.
            operation["security"] = [] if is_open(path) else [{"bearer": []}, {"header": []}, *([] if keyed else [{}])]
            statuses = {int(status) for status in operation["responses"]}
            statuses |= set(STATUSES_OF_OPEN if is_open(path) else STATUSES_OF_ALL)
            if "requestBody" in operation:
                statuses |= set(WITH_A_BODY)
            for status in sorted(statuses):
                response = operation["responses"].setdefault(str(status), {})
                response.setdefault("headers", {}).update(REQUEST_ID | (RETRY_AFTER if status in (429, 503) else {}))
                if status in ERRORS:
                    _complete_error(response, *ERRORS[status])


def _complete_error(response: dict[str, Any], description: str, codes: dict[str, tuple[str, str]]) -> None:
    response.setdefault("description", description)
    content = response.setdefault("content", {}).setdefault("application/json", {})
    content["schema"] = {"$ref": "#/components/schemas/ErrorResponse"}
    content["examples"] = {
        code: {"value": {"error": {"code": code, "message": message, "hint": hint, "request_id": "5f0c9e"}}}
        for code, (message, hint) in codes.items()
    }
