"""The routes of single images: record, content, takedown."""

import asyncio
import itertools
import logging
import posixpath
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from viewfinder.client.results import ErrorResponse, Image, Removal, Restoration, Takedown, Takedowns
from viewfinder.errors import CollectionMissingError, ImageError, ObjectError, SourceError
from viewfinder.images.thumbnails import MAX_WIDTH, MEDIA_TYPE, MIN_WIDTH
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.errors import ERROR_RESPONSES, HTTPError
from viewfinder.service.http.keys import require_admin
from viewfinder.service.images.content import ContentBusyError, entity_tag
from viewfinder.service.search_service import SearchService
from viewfinder.sources.uris import canonical_uri
from viewfinder.store import Record
from viewfinder.store import takedowns as takedowns_in_store
from viewfinder.store.takedowns import TakenDown

logger = logging.getLogger(__name__)

# Lower case only, as the index writes it, so that each point has one URL.
ImageId = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        description="Point id: the UUIDv5 of the image's URI.",
        examples=["0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10"],
    ),
]

ImageUri = Annotated[
    str | None,
    Query(
        pattern=r"^(s3|file)://",
        max_length=16_384,
        description="URI of the image. If the index has no image `id`, those with a URI that looks the same are meant: "
        "letters with accents have several spellings in Unicode.",
    ),
]

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

_REFUSED: Mapping[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "The image is not in the index, or no longer in its bucket."},
    502: {"model": ErrorResponse, "description": "The bucket refuses access to the object."},
}
_ADMIN_ONLY: Mapping[int | str, dict[str, Any]] = {
    403: {"model": ErrorResponse, "description": "The key may search, but not take images down."},
}


def router(service: SearchService) -> APIRouter:
    """The images routes over one replica's service."""
    routes = APIRouter(tags=["images"])
    unavailable: dict[int | str, dict[str, Any]] = {503: ERROR_RESPONSES[503], 504: ERROR_RESPONSES[504]}
    index = service.settings.index

    @routes.get(
        "/v1/images/{id}",
        responses={404: _REFUSED[404], 422: ERROR_RESPONSES[422], **unavailable},
        summary="Everything the index stores about an image",
    )
    async def image(id: ImageId, uri: ImageUri = None) -> Image:
        record, generation = await _record(service, id, uri)
        payload = dict(record.payload)
        known = {name: payload.get(name) for name in ("caption", "width", "height")}
        return Image(
            id=record.id, uri=payload.get("uri", ""), payload=payload, collection=generation.collection.name, **known
        )

    @routes.get(
        "/v1/images/{id}/content",
        response_class=Response,
        responses={
            200: {"description": "The image.", "content": {MEDIA_TYPE: {}, "image/*": {}, UNKNOWN_TYPE[0]: {}}},
            304: {"description": "The client's copy is current."},
            **_REFUSED,
            422: ERROR_RESPONSES[422],
            **unavailable,
        },
        summary="The image itself, or a thumbnail of it",
    )
    async def content(
        id: ImageId,
        width: Annotated[
            int | None,
            Query(
                ge=MIN_WIDTH,
                le=MAX_WIDTH,
                description="Width of a thumbnail in pixels, never enlarged. Without it: the original.",
            ),
        ] = None,
        if_none_match: Annotated[str | None, Header(description="The `ETag` of the client's copy.")] = None,
        uri: ImageUri = None,
    ) -> Response:
        began = time.perf_counter()
        record, _ = await _record(service, id, uri)
        known = entity_tag(str(record.payload.get("etag") or ""), width)
        if known and if_none_match and _matches(known, if_none_match):
            return Response(status_code=304, headers=_headers(known))
        try:
            answer = await (_original(service, record) if width is None else _thumbnail(service, record, width))
        except (ObjectError, ContentBusyError) as error:
            raise _content_error(error) from error
        service.metrics.observe("content", time.perf_counter() - began)
        return answer

    @routes.delete(
        "/v1/images/{id}",
        dependencies=[Depends(require_admin)],
        responses={**_ADMIN_ONLY, 422: ERROR_RESPONSES[422], **unavailable},
        summary="Take an image down",
    )
    async def take_down(id: ImageId, request: Request, uri: ImageUri = None) -> Removal:
        # Not through the generation: a replica that cannot load its model can still take an image down.
        done: TakenDown = await service.in_thread(
            takedowns_in_store.take_down, service.store, index, id, _canonical(uri)
        )
        logger.info("%s took %s down", getattr(request.state, "id", "?"), done.uri or id)
        return Removal(
            id=done.ids[0], uri=done.uri, removed=done.removed, before=done.before, nearest=tuple(done.nearest)
        )

    @routes.get(
        "/v1/takedowns",
        dependencies=[Depends(require_admin)],
        responses={**_ADMIN_ONLY, 422: ERROR_RESPONSES[422], **unavailable},
        summary="Images that were taken down",
    )
    async def takedowns(
        limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of takedowns.")] = 100,
        offset: Annotated[int, Query(ge=0, le=10_000_000, description="Number of takedowns to skip, by id.")] = 0,
    ) -> Takedowns:
        def page() -> list[Takedown]:
            found = itertools.islice(service.store.control(index).all_takedowns(), offset, offset + limit + 1)
            return [Takedown(id=each, uri=takedown.uri, at=takedown.at) for each, takedown in found]

        found: list[Takedown] = await service.in_thread(page)
        return Takedowns(takedowns=tuple(found[:limit]), more=len(found) > limit)

    @routes.delete(
        "/v1/takedowns/{id}",
        dependencies=[Depends(require_admin)],
        responses={**_ADMIN_ONLY, 422: ERROR_RESPONSES[422], **unavailable},
        summary="Lift a takedown; the next index run adds the image again",
    )
    async def restore(id: ImageId, request: Request, uri: ImageUri = None) -> Restoration:
        done: TakenDown = await service.in_thread(takedowns_in_store.restore, service.store, index, id, _canonical(uri))
        logger.info("%s lifted the takedown of %s", getattr(request.state, "id", "?"), done.uri or id)
        return Restoration(id=done.ids[0], restored=done.before, nearest=tuple(done.nearest))

    return routes


async def _record(service: SearchService, id: str, uri: str | None) -> tuple[Record, Generation]:
    """The point in the live collection, which is looked up again if it was dropped since the last refresh."""
    names = list(takedowns_in_store.names_of(id, _canonical(uri)))
    for last in (False, True):
        generation = service.follower.snapshot()
        try:
            found = await service.in_thread(service.store.points.records, generation.collection, names)
        except CollectionMissingError:
            if last:
                raise
            await service.in_thread(service.follower.refresh)
        else:
            break
    if held := next((each for each in names if each in found), None):
        return found[held], generation
    raise HTTPError(404, "not_found", f"The index holds no image {uri or id!r}.", "Use the id of a hit.")


def _canonical(uri: str | None) -> str:
    try:
        return canonical_uri(uri) if uri else ""
    except SourceError as error:
        raise HTTPError(422, "invalid_request", str(error), "Pass the URI of a hit.") from error


async def _original(service: SearchService, record: Record) -> Response:
    payload = record.payload
    original = await service.content.original(str(payload["uri"]), int(payload.get("size") or 0))
    media_type, suffix = MEDIA_TYPES.get(str(payload.get("format")), UNKNOWN_TYPE)
    inline = media_type != UNKNOWN_TYPE[0]
    headers = _headers(entity_tag(original.etag, None)) | {
        "content-length": str(original.size),
        "content-disposition": _disposition(record.id, str(payload.get("key") or ""), suffix, inline=inline),
    }
    return _FileResponse(original.file, headers=headers, media_type=media_type)


async def _thumbnail(service: SearchService, record: Record, width: int) -> Response:
    payload = record.payload
    small, etag = await service.content.thumbnail(str(payload["uri"]), str(payload.get("etag") or ""), width)
    headers = _headers(entity_tag(etag, width)) | {
        "content-disposition": _disposition(record.id, str(payload.get("key") or ""), "jpg", inline=True)
    }
    return Response(small, headers=headers, media_type=MEDIA_TYPE)


class _FileResponse(StreamingResponse):
    """Streams an open file, and closes it even if the client disconnects."""

    def __init__(self, file: BinaryIO, **options: Any) -> None:
        super().__init__(_chunks(file), **options)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, STREAM_CHUNK_BYTES):
        yield chunk


def _headers(tag: str) -> dict[str, str]:
    # An image must not run scripts, even if a browser opens it as a document.
    headers = {
        "cache-control": CACHE_CONTROL,
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }
    return headers | ({"etag": tag} if tag else {})


def _matches(tag: str, if_none_match: str) -> bool:
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
