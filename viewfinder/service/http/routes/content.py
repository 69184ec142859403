"""The routes of the content of images: originals and thumbnails."""

import asyncio
import functools
import logging
import posixpath
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from viewfinder.client.results import ErrorResponse
from viewfinder.errors import ImageError, ObjectError
from viewfinder.images.thumbnails import MAX_WIDTH, MEDIA_TYPE, MIN_WIDTH
from viewfinder.query.fields import Id, IndexName
from viewfinder.query.validation import JsonBody
from viewfinder.service.http.errors import ERROR_RESPONSES, HTTPError
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.http.keys import Asked, Seen, Visible
from viewfinder.service.http.routes.images import IMAGE_ERRORS, ImageId, ImageUri, record_of, seen_ids
from viewfinder.service.images.content import WIDTHS, ContentBusyError, Original, Part, entity_tag
from viewfinder.service.search_service import SearchService
from viewfinder.store import Record

logger = logging.getLogger(__name__)

# Formats that a browser may display, with media type and suffix; others are offered for download. An index holds no
# markup (SVG), and `nosniff` prevents a browser from detecting any.
MEDIA_TYPES: Mapping[str, tuple[str, str]] = {
    "avif": ("image/avif", "avif"),
    "bmp": ("image/bmp", "bmp"),
    "gif": ("image/gif", "gif"),
    "ico": ("image/x-icon", "ico"),
    "jpeg": ("image/jpeg", "jpg"),
    "jpeg2000": ("image/jp2", "jp2"),
    "mpo": ("image/jpeg", "jpg"),
    "png": ("image/png", "png"),
    "tiff": ("image/tiff", "tif"),
    "webp": ("image/webp", "webp"),
}
UNKNOWN_TYPE = ("application/octet-stream", "bin")

# Private: access depends on the key. Short: an image that was taken down must not stay in caches.
CACHE_CONTROL = "private, max-age=300"
STREAM_CHUNK_BYTES = 256 * 1024
MAX_NAME = 80


class ThumbnailsRequest(JsonBody):
    """The images whose thumbnails a page shows."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ids": ["0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10"], "width": 256}]},
    )

    index: IndexName | None = None
    ids: Annotated[
        list[Id], Field(min_length=1, max_length=200, fail_fast=True, description="Ids of images, as in hits.")
    ]
    width: Annotated[int, Field(ge=MIN_WIDTH, le=MAX_WIDTH, strict=True, description="Maximum width in pixels.")] = 256


class ThumbnailAddresses(BaseModel):
    """Paths with their queries, by id, to put after the address of the service."""

    paths: Annotated[dict[str, str], Field(description="With a key that has a filter, only of images that it sees.")]
    expires: Annotated[int, Field(description="When the addresses end, in seconds since 1970.")]


_WIDTHS = ", ".join(map(str, WIDTHS))
_Width = Annotated[
    int | None,
    Query(
        ge=MIN_WIDTH,
        le=MAX_WIDTH,
        description=f"Width of a thumbnail in pixels, rounded up to one of {_WIDTHS}; never enlarged. Without it: the "
        "original.",
    ),
]
_IfNoneMatch = Annotated[str | None, Header(description="The `ETag` of the client's copy.")]
_Range = Annotated[str | None, Header(description="The part of an original: `bytes=FIRST-LAST`.")]
_IfRange = Annotated[str | None, Header(description="Ignore `Range` unless this is the `ETag`.")]
_Expires = Annotated[int | None, Query(ge=0, description="Of an address of `POST /v1/thumbnails`.")]
_Signature = Annotated[str | None, Query(max_length=128, description="Of such an address.")]
_BYTE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CONTENT_RESPONSES: Mapping[int | str, dict[str, Any]] = {
    200: {"description": "The image.", "content": {MEDIA_TYPE: {}, "image/*": {}, UNKNOWN_TYPE[0]: {}}},
    206: {"description": "The part of the original in `Range`."},
    304: {"description": "The client's copy is current."},
    307: {"description": "The original is at `Location`, for five minutes (`VIEWFINDER_REDIRECT_ORIGINALS`)."},
    **IMAGE_ERRORS,
    416: {"model": ErrorResponse, "description": "The original has no such part."},
    422: ERROR_RESPONSES[422],
    503: ERROR_RESPONSES[503],
    504: ERROR_RESPONSES[504],
}


def router(service: SearchService) -> APIRouter:
    """The content routes over one replica's service."""
    routes = APIRouter(tags=["images"])
    redirects = service.settings.redirect_originals

    @routes.head("/v1/images/{id}/content", include_in_schema=False)
    @routes.get(
        "/v1/images/{id}/content",
        response_class=Response,
        responses={**_CONTENT_RESPONSES},
        summary="The image itself, or a thumbnail of it",
    )
    async def content(
        request: Request,
        id: ImageId,
        seen: Seen,
        index: Asked,
        width: _Width = None,
        if_none_match: _IfNoneMatch = None,
        range: _Range = None,
        if_range: _IfRange = None,
        uri: ImageUri = None,
        expires: _Expires = None,
        signature: _Signature = None,
    ) -> Response:
        del expires, signature  # the guard has checked them
        began = time.perf_counter()
        record, _ = await record_of(service, index, seen, id, uri)
        width = None if width is None else next(each for each in WIDTHS if each >= width)
        known = entity_tag(str(record.payload.get("etag") or ""), width)
        if known and if_none_match and _has_tag(known, if_none_match):
            return Response(status_code=304, headers=_headers(known))
        try:
            if width is not None:
                answer = await _thumbnail(service, record, width)
            elif redirects and _follows_redirects(request) and (address := await _address(service, record)):
                answer = Response(status_code=307, headers={"location": address, "cache-control": "no-store"})
            else:
                part = functools.partial(_part, range, if_range)
                original = await service.content.original(
                    str(record.payload["uri"]), int(record.payload.get("size") or 0), part
                )
                answer = _original(record, original, part, range or "", head=request.method == "HEAD")
        except (ObjectError, ContentBusyError) as error:
            raise _content_error(error) from error
        service.metrics.observe("content", time.perf_counter() - began)
        return answer

    async def thumbnails(body: ThumbnailsRequest, seen: Seen, visible: Visible) -> ThumbnailAddresses:
        index = visible.of(body.index)
        width = next(each for each in WIDTHS if each >= body.width)
        ids = body.ids if seen is None else await seen_ids(service, index, seen, body.ids)
        return ThumbnailAddresses(
            paths={id: service.links.path(index.name, id, width) for id in ids}, expires=service.links.expiry()
        )

    routes.add_api_route(
        "/v1/thumbnails",
        thumbnails,
        methods=["POST"],
        route_class_override=JsonRoute,
        responses={422: ERROR_RESPONSES[422], 503: ERROR_RESPONSES[503], 504: ERROR_RESPONSES[504]},
        summary="Addresses of thumbnails that need no key, for the <img> elements of a page",
    )
    return routes


def _follows_redirects(request: Request) -> bool:
    """Whether the client can read the original elsewhere.

    Few buckets allow the scripts of other sites, and an address that is signed for GET refuses HEAD.
    """
    return request.method == "GET" and request.headers.get("sec-fetch-mode") not in ("cors", "same-origin")


async def _address(service: SearchService, record: Record) -> str | None:
    media_type, disposition = _presentation(record)
    return await service.content.address(str(record.payload["uri"]), media_type, disposition)


def _presentation(record: Record) -> tuple[str, str]:
    """The media type and the disposition of an original."""
    media_type, suffix = MEDIA_TYPES.get(str(record.payload.get("format")), UNKNOWN_TYPE)
    inline = media_type != UNKNOWN_TYPE[0]
    return media_type, _disposition(record.id, str(record.payload.get("key") or ""), suffix, inline=inline)


def _original(record: Record, original: Original, part: Part, range: str, *, head: bool) -> Response:
    """The whole original, or the part of it that is asked for: with it a client goes on after a lost connection."""
    media_type, disposition = _presentation(record)
    tag = entity_tag(original.etag, None)
    headers = _headers(tag) | {"accept-ranges": "bytes", "content-disposition": disposition}
    whole = slice(0, original.size)
    wanted = part(original.size, original.etag)
    if wanted is None:
        original.close()
        raise HTTPError(
            416,
            "invalid_range",
            f"The original has {original.size:,} bytes, not those of Range {range[:40]!r}.",
            "Leave out Range, or ask for bytes that exist.",
            headers={"content-range": f"bytes */{original.size}"},
        )
    status = 200 if wanted == whole else 206
    headers["content-length"] = str(wanted.stop - wanted.start)
    if status == 206:
        headers["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{original.size}"
    if head:
        original.close()
        return Response(status_code=status, headers=headers, media_type=media_type)
    return _FileResponse(original, wanted, status_code=status, headers=headers, media_type=media_type)


def _part(range: str | None, if_range: str | None, size: int, etag: str) -> slice | None:
    """The bytes to send of an original; None if `Range` asks for bytes that it does not have."""
    return _slice(range, size) if range and if_range in (None, entity_tag(etag, None)) else slice(0, size)


def _slice(range: str, size: int) -> slice | None:
    """The bytes of a `Range` header; all of them for one that servers may ignore, None if there are none of them."""
    if not (match := _BYTE_RANGE.fullmatch(range.strip())) or not (match[1] or match[2]):
        return slice(0, size)  # other units, several ranges
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), size
        if match[2]:
            if int(match[2]) < start:
                return slice(0, size)  # not a valid range
            stop = min(size, int(match[2]) + 1)
    return slice(start, stop) if start < stop else None


async def _thumbnail(service: SearchService, record: Record, width: int) -> Response:
    payload = record.payload
    small, etag = await service.content.thumbnail(str(payload["uri"]), str(payload.get("etag") or ""), width)
    headers = _headers(entity_tag(etag, width)) | {
        "content-disposition": _disposition(record.id, str(payload.get("key") or ""), "jpg", inline=True)
    }
    return Response(small, headers=headers, media_type=MEDIA_TYPE)


class _FileResponse(StreamingResponse):
    """Streams a part of an original, and closes it even if the client disconnects."""

    def __init__(self, original: Original, part: slice, **options: Any) -> None:
        super().__init__(_chunks(original, part), **options)
        self._original = original

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._original.close()


async def _chunks(original: Original, part: slice) -> AsyncIterator[bytes]:
    original.file.seek(part.start - original.start)
    left = part.stop - part.start
    while left > 0 and (chunk := await asyncio.to_thread(original.file.read, min(left, STREAM_CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def _headers(tag: str) -> dict[str, str]:
    # An image must not run scripts, even if a browser opens it as a document.
    headers = {
        "cache-control": CACHE_CONTROL,
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }
    return headers | ({"etag": tag} if tag else {})


def _has_tag(tag: str, if_none_match: str) -> bool:
    given = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return tag in given or "*" in given


def _disposition(id: str, key: str, suffix: str, *, inline: bool) -> str:
    """The file name for a browser: the last part of the key, with the suffix of the content's format."""
    stem = posixpath.splitext(posixpath.basename(key))[0]
    stem = "".join(letter for letter in stem if letter.isprintable() and letter not in '\\/:*?"<>|')[:MAX_NAME]
    named = f"; filename*=UTF-8''{quote(stem, safe='', errors='replace')}.{suffix}" if stem.strip(". ") else ""
    return f'{"inline" if inline else "attachment"}; filename="{id}.{suffix}"{named}'


def _content_error(error: ObjectError | ContentBusyError) -> HTTPError:
    """The response to an unreadable image; the bucket's own message goes to the log only."""
    if isinstance(error, ContentBusyError):
        return HTTPError(
            503, "overloaded", "Too many images are requested at once.", "Try again shortly.", retry_after_s=1
        )
    logger.warning("%s: %s", error.reason, error.message)
    if error.reason == "decode_timeout":
        return HTTPError(504, "timeout", "The image takes too long to decode.", "Request it without a width.")
    if isinstance(error, ImageError) or error.reason == "too_many_bytes":
        message = f"The image can no longer be shown ({error.reason})."
        return HTTPError(422, "invalid_image", message, "The object or the limits have changed since it was indexed.")
    if error.reason in ("not_found", "not_a_file"):
        return HTTPError(
            404, "object_missing", "The image is no longer in its bucket.", "Run 'viewfinder index SRC --prune'."
        )
    if error.reason in ("throttled", "unavailable", "changed"):
        message = "The bucket is unavailable."
        return HTTPError(503, "bucket_unavailable", message, "Try again shortly.", retry_after_s=5)
    message = f"The bucket refuses access to the image ({error.reason})."
    return HTTPError(502, "bucket_refused", message, "Grant the service s3:GetObject on it.")
