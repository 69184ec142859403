"""The OpenAPI schema: derived by FastAPI from the routes, completed with keys and errors."""

from typing import Any

from fastapi import FastAPI

from viewfinder.service.http.guard import is_open_path

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}

# By status: a description, and its codes, each with an example of message and hint.
ERROR_CODES: dict[int, tuple[str, dict[str, tuple[str, str]]]] = {
    400: (
        "The body, a parameter's name, the filter, the order or the cursor is invalid, or hits have no relevance.",
        {
            "invalid_json": ("The body is not JSON.", "Send a JSON object in UTF-8."),
            "invalid_body": ("Missing boundary in multipart.", "GET /docs shows every route and field."),
            "invalid_header": ("X-Request-Timeout-Seconds cannot lift the limits.", "Leave it out."),
            "invalid_parameter": (
                "there is no parameter 'limt'; did you mean 'limit'?",
                "GET /docs lists the parameters of every route.",
            ),
            "invalid_filter": ("Unknown field 'colour'.", "GET /docs: POST /v1/search, `filter`."),
            "no_relevance": ("min_relevance: the hits have no relevance, because there is no query.", "Leave it out."),
            "invalid_cursor": ("cursor: not a cursor of this index: 'abc'.", "Search again without a cursor."),
            "invalid_request": ("dimensions: 'demo' makes vectors of 128 numbers, not 64.", "Leave `dimensions` out."),
        },
    ),
    401: (
        "There is no API key, or an unknown one.",
        {"unauthorized": ("An API key is needed.", "Send Authorization: Bearer KEY, or X-API-Key: KEY.")},
    ),
    403: (
        "The key is not allowed to do this; or there are no keys, and the client is not on the service's own machine.",
        {
            "forbidden": ("This needs an admin key.", "Send a key that is listed with ':admin'."),
            "key_filter_mismatch": ("The filter of this API key does not fit the index.", "Ask who runs the service."),
        },
    ),
    404: (
        "Not found.",
        {
            "not_found": ("Not Found", "GET /docs shows every route and field."),
            "index_not_found": (
                "index: there is no index 'photo'; known are 'images', 'photos'.",
                "GET /v1/indexes lists the indexes that a key may see.",
            ),
            "model_not_found": ("The model 'other' is not live; 'demo' is.", "Use 'viewfinder' for the live model."),
            "object_missing": ("The image is no longer in its bucket.", "Run 'viewfinder index SRC --prune'."),
        },
    ),
    408: (
        "The body did not arrive in time.",
        {"body_too_slow": ("The body did not arrive within 30 seconds.", "Send a smaller image.")},
    ),
    410: (
        "The collection of the cursor no longer exists.",
        {"collection_gone": ("The cursor's collection no longer exists.", "Search again without a cursor.")},
    ),
    413: (
        "The body is too large.",
        {"body_too_large": ("The body is larger than 31,457,280 bytes.", "Send a smaller image.")},
    ),
    415: (
        "The body has the wrong media type, or is compressed.",
        {
            "unsupported_media_type": ("The body is 'text/plain', not JSON.", "Send Content-Type: application/json."),
            "unsupported_encoding": ("The body has the Content-Encoding 'gzip'.", "Send the body uncompressed."),
        },
    ),
    416: (
        "The original has no such part.",
        {"invalid_range": ("The original has 1,024 bytes, not those of Range 'bytes=2000-'.", "Leave out Range.")},
    ),
    422: (
        "A field of the request is missing, unknown or out of bounds, or an image cannot be fetched or decoded.",
        {
            "invalid_request": ("limit: 201 is above the maximum of 200.", "GET /docs shows every field."),
            "invalid_image": ("image: not an image that can be decoded.", "Send JPEG, PNG, WebP, GIF, BMP or TIFF."),
            "image_url_disabled": (
                "image_url: this service does not fetch URLs.",
                "Send the image itself as base64 in `image`.",
            ),
            "forbidden_address": ("image_url: the address is not public.", "Use a public http(s) URL."),
            "fetch_failed": ("image_url: the server answered with status 404.", "Check the URL."),
            "uploads_disabled": (
                "The service has no place for uploaded images.",
                "Set VIEWFINDER_UPLOADS_URI to an S3 prefix, or send URIs.",
            ),
            "words_unavailable": ("Ranks by words need Qdrant 1.20.", "Search with rank 'clip'."),
        },
    ),
    429: (
        "The rate limit is exceeded.",
        {"rate_limited": ("Too many requests.", "Wait for the seconds in Retry-After, then try again.")},
    ),
    500: (
        "Internal error.",
        {
            "internal_error": ("Internal error.", "See the service's log."),
            "store_error": ("The vector store refused the request.", "See the service's log."),
        },
    ),
    502: (
        "The bucket refuses access to the image.",
        {
            "bucket_refused": (
                "The bucket refuses access to the image (access_denied).",
                "Grant the service s3:GetObject on it.",
            )
        },
    ),
    503: (
        "Too many requests are waiting, there is no index yet, or the store is unavailable; retry after `Retry-After`.",
        {
            "overloaded": ("Too many requests are waiting.", "Try again shortly."),
            "no_index": ("There is no index 'images' yet.", "Index images: viewfinder index s3://bucket/prefix"),
            "not_ready": ("The service is still loading its model.", "Try again shortly."),
            "model_unavailable": (
                "The model of the live collection 'images__a' cannot be loaded.",
                "Make the weights of the live model available to the service, or roll back.",
            ),
            "store_unavailable": ("The vector store cannot be reached.", "Try again shortly."),
            "bucket_unavailable": ("The bucket is unavailable.", "Try again shortly."),
        },
    ),
    504: (
        "The request exceeded the service's time limit.",
        {"timeout": ("The request took too long.", "Try again. If there is a filter, narrow it.")},
    ),
}

# The paths of `OpenAIRoute`, whose invalid requests get status 400 instead of 422.
BAD_REQUEST_PATHS = frozenset({"/v1/embeddings", "/v1/rerank"})
BODY_STATUSES = (400, 408, 413, 415)
OPEN_STATUSES = (403, 500)
COMMON_STATUSES = (400, 401, 403, 404, 429, 500, 503, 504)
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}
REQUEST_ID = {"X-Request-ID": {"description": "The client's own id, or a new one.", "schema": {"type": "string"}}}


def complete_schema(api: FastAPI, *, keyed: bool) -> None:
    """Add API keys, and every error that a route can give, with examples, to `GET /openapi.json`.

    `keyed` is True if the service requires keys.
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
            # An empty alternative makes the key optional.
            operation["security"] = (
                [] if is_open_path(path) else [{"bearer": []}, {"header": []}, *([] if keyed else [{}])]
            )
            statuses = {int(status) for status in operation["responses"]}
            statuses |= set(OPEN_STATUSES if is_open_path(path) else COMMON_STATUSES)
            if "requestBody" in operation:
                statuses |= set(BODY_STATUSES)
            if path in BAD_REQUEST_PATHS:
                statuses.discard(422)
                operation["responses"].pop("422", None)
            for status in sorted(statuses):
                response = operation["responses"].setdefault(str(status), {})
                response.setdefault("headers", {}).update(REQUEST_ID | (RETRY_AFTER if status in (429, 503) else {}))
                if status in ERROR_CODES:
                    description, codes = ERROR_CODES[status]
                    if status == 400 and path in BAD_REQUEST_PATHS:
                        codes = codes | ERROR_CODES[422][1]
                    _complete_error(response, description, codes)


def _complete_error(response: dict[str, Any], description: str, codes: dict[str, tuple[str, str]]) -> None:
    response.setdefault("description", description)
    content = response.setdefault("content", {}).setdefault("application/json", {})
    content["schema"] = {"$ref": "#/components/schemas/ErrorResponse"}
    content["examples"] = {
        code: {"value": {"error": {"code": code, "message": message, "hint": hint, "request_id": "5f0c9e"}}}
        for code, (message, hint) in codes.items()
    }
