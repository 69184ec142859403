"""Single pictures of the index: their data, their content, their takedown."""

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
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from viewfinder.errors import CollectionMissingError, ImageError, ObjectError
from viewfinder.images.thumbnails import MAX_WIDTH, MEDIA_TYPE, MIN_WIDTH
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.keys import require_admin
from viewfinder.service.http.refusals import ERRORS, Refusal
from viewfinder.service.http.schemas import ErrorResponse
from viewfinder.service.images.content import ContentBusyError, entity_tag
from viewfinder.service.search_service import SearchService
from viewfinder.store import Record

logger = logging.getLogger(__name__)

# Lower case, as the index writes it: one point, one address.
ImageId = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        description="Point id: the UUIDv5 of the picture's URI.",
        examples=["0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10"],
    ),
]

# What a browser may show in its window, by the format that the index noted; all else it may only save. No markup (SVG)
# can be in an index, and `nosniff` keeps a browser from finding some.
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

# Private: who may see a picture depends on the key. Short: what is taken down shall not linger.
CACHE_CONTROL = "private, max-age=300"
CHUNK_BYTES = 256 * 1024
LONGEST_NAME = 80

_REFUSED: Mapping[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "No such picture in the index, or no longer in its bucket."},
    502: {"model": ErrorResponse, "description": "The bucket does not let the service read the object."},
}
_ADMIN_ONLY: Mapping[int | str, dict[str, Any]] = {
    403: {"model": ErrorResponse, "description": "The key may search, but not take pictures down."},
}


class ImageBody(BaseModel):
    """What the index knows of one picture."""

    id: str
    uri: str = Field(description="Where the picture is.")
    caption: str | None = None
    width: int | None = Field(None, description="Pixels, as displayed.")
    height: int | None = Field(None, description="Pixels, as displayed.")
    payload: dict[str, Any] = Field(description="All that the index knows of the object.")
    collection: str = Field(description="Physical name of the collection that was asked.")


class TakenDownBody(BaseModel):
    """A picture that is kept out of the index."""

    id: str
    uri: str = Field(description="Where the picture is; empty where the index never knew it.")
    removed: bool = Field(description="Whether a collection of the index held it until now.")


class TakedownBody(BaseModel):
    """One takedown."""

    id: str
    uri: str
    at: str = Field(description="When, ISO 8601 in UTC.")


class TakedownsBody(BaseModel):
    """Takedowns, a page of them."""

    takedowns: list[TakedownBody]
    more: bool = Field(description="Whether there are some beyond this page.")


class RestoredBody(BaseModel):
    """A takedown that was taken back."""

    id: str
    restored: bool = Field(description="Whether there was a takedown. The next index run brings the picture back.")


def router(service: SearchService) -> APIRouter:
    """The images routes over one replica's service."""
    routes = APIRouter(tags=["images"])
    unavailable: dict[int | str, dict[str, Any]] = {503: ERRORS[503], 504: ERRORS[504]}
    index = service.settings.index

    @routes.get(
        "/v1/images/{id}",
        responses={404: _REFUSED[404], 422: ERRORS[422], **unavailable},
        summary="What the index knows of a picture",
    )
    async def image(id: ImageId) -> ImageBody:
        record, generation = await _record(service, id)
        payload = dict(record.payload)
        known = {name: payload.get(name) for name in ("caption", "width", "height")}
        uri = payload.get("uri", "")
        return ImageBody(id=id, uri=uri, payload=payload, collection=generation.collection.name, **known)

    @routes.get(
        "/v1/images/{id}/content",
        response_class=Response,
        responses={
            200: {"description": "The picture.", "content": {MEDIA_TYPE: {}, "image/*": {}, UNKNOWN_TYPE[0]: {}}},
            304: {"description": "The picture is the one that the client has."},
            **_REFUSED,
            422: ERRORS[422],
            **unavailable,
        },
        summary="The picture itself, or a thumbnail of it",
    )
    async def content(
        id: ImageId,
        width: Annotated[
            int | None,
            Query(ge=MIN_WIDTH, le=MAX_WIDTH, description="Pixels of a thumbnail, never enlarged. Left out: as it is."),
        ] = None,
        if_none_match: Annotated[str | None, Header(description="The `ETag` of a copy that may still hold.")] = None,
    ) -> Response:
        began = time.perf_counter()
        record, _ = await _record(service, id)
        known = entity_tag(str(record.payload.get("etag") or ""), width)
        if known and if_none_match and _matches(known, if_none_match):
            return Response(status_code=304, headers=_headers(known))
        try:
            answer = await (_original(service, record) if width is None else _thumbnail(service, record, width))
        except (ObjectError, ContentBusyError) as error:
            raise _refusal(error) from error
        service.metrics.observe("content", time.perf_counter() - began)
        return answer

    @routes.delete(
        "/v1/images/{id}",
        dependencies=[Depends(require_admin)],
        responses={**_ADMIN_ONLY, 422: ERRORS[422], **unavailable},
        summary="Take a picture out of the index for good",
    )
    async def take_down(id: ImageId, request: Request) -> TakenDownBody:
        def bar() -> tuple[bool, str]:
            # Not by way of the generation: a replica that cannot load its model can still take a picture down.
            held = service.store.take_down(index, {id: ""})
            return id in held, service.store.control(index).takedowns([id])[id].uri

        removed, uri = await service.in_thread(bar)
        logger.info("%s took %s down", getattr(request.state, "id", "?"), uri or id)
        return TakenDownBody(id=id, uri=uri, removed=removed)

    @routes.get(
        "/v1/takedowns",
        dependencies=[Depends(require_admin)],
        responses={**_ADMIN_ONLY, 422: ERRORS[422], **unavailable},
        summary="Pictures that were taken down",
    )
    async def takedowns(
        limit: Annotated[int, Query(ge=1, le=1000, description="Largest number of them.")] = 100,
        offset: Annotated[int, Query(ge=0, le=10_000_000, description="How many to leave out, by id.")] = 0,
    ) -> TakedownsBody:
        def page() -> list[TakedownBody]:
            found = itertools.islice(service.store.control(index).all_takedowns(), offset, offset + limit + 1)
            return [TakedownBody(id=each, uri=stone.uri, at=stone.at) for each, stone in found]

        found: list[TakedownBody] = await service.in_thread(page)
        return TakedownsBody(takedowns=found[:limit], more=len(found) > limit)

    @routes.delete(
        "/v1/takedowns/{id}",
        dependencies=[Depends(require_admin)],
        responses={**_ADMIN_ONLY, 422: ERRORS[422], **unavailable},
        summary="Let a picture come back with the next index run",
    )
    async def restore(id: ImageId, request: Request) -> RestoredBody:
        def lift() -> bool:
            stood = id in service.store.control(index).takedowns([id])
            service.store.restore(index, [id])
            return stood

        restored: bool = await service.in_thread(lift)
        logger.info("%s lifted the takedown of %s", getattr(request.state, "id", "?"), id)
        return RestoredBody(id=id, restored=restored)

    return routes


async def _record(service: SearchService, id: str) -> tuple[Record, Generation]:
    """The point of the live collection; a collection dropped since the alias moved is no error for the client."""
    for last in (False, True):
        generation = service.generation()
        try:
            found = await service.in_thread(service.store.points.records, generation.collection, [id])
        except CollectionMissingError:
            if last:
                raise
            await service.in_thread(service.follower.refresh)
        else:
            break
    if id not in found:
        raise Refusal(
            404, "not_found", f"There is no picture {id!r} in the index.", "Ids come with the hits of a search."
        )
    return found[id], generation


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
    """An open file in pieces, closed whatever becomes of the client."""

    def __init__(self, file: BinaryIO, **options: Any) -> None:
        super().__init__(_chunks(file), **options)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


def _headers(tag: str) -> dict[str, str]:
    # A picture is looked at, and runs nothing, even where a browser takes it for a page of its own.
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
    """The name under which a browser saves it: the key's last part, with the suffix that the content has."""
    stem = posixpath.splitext(posixpath.basename(key))[0]
    stem = "".join(letter for letter in stem if letter.isprintable() and letter not in '\\/:*?"<>|')[:LONGEST_NAME]
    named = f"; filename*=UTF-8''{quote(stem, safe='', errors='replace')}.{suffix}" if stem.strip(". ") else ""
    return f'{"inline" if inline else "attachment"}; filename="{id}.{suffix}"{named}'


def _refusal(error: ObjectError | ContentBusyError) -> Refusal:
    """What the client is told; the bucket's own words stay in the log."""
    if isinstance(error, ContentBusyError):
        return Refusal(503, "overloaded", "Too many pictures are asked for at once.", "Try again.", retry_after_s=1)
    logger.warning("%s: %s", error.reason, error.message)
    if error.reason == "decode_timeout":
        return Refusal(504, "timeout", "The picture takes too long to decode.", "Ask for it without a width.")
    if isinstance(error, ImageError) or error.reason == "too_many_bytes":
        message = f"The picture can no longer be shown ({error.reason})."
        return Refusal(
            422, "invalid_image", message, "Its object has changed since it was indexed, or the limits have."
        )
    if error.reason in ("not_found", "not_a_file"):
        return Refusal(
            404, "object_missing", "The picture is no longer in its bucket.", "Run the index job with --prune."
        )
    if error.reason in ("throttled", "unavailable", "changed"):
        message = "The bucket cannot be read right now."
        return Refusal(503, "bucket_unavailable", message, "Try again shortly.", retry_after_s=5)
    message = f"The bucket does not let the service read the picture ({error.reason})."
    return Refusal(502, "bucket_refused", message, "The service's credentials need s3:GetObject on it.")
