"""The routes of single images: record, content, takedown."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from viewfinder.client.results import ErrorResponse, Image, Removal, Restoration, Takedowns
from viewfinder.errors import CollectionMissingError, SourceError
from viewfinder.query import takedowns as in_store
from viewfinder.service.http.errors import ERROR_RESPONSES, HTTPError
from viewfinder.service.http.keys import Asked, Seen, require_admin, require_whole_index
from viewfinder.service.indexes import ServedIndex
from viewfinder.service.search_service import SearchService
from viewfinder.sources.uris import canonical_uri
from viewfinder.store import Collection, Record
from viewfinder.store.conditions import KeyFilter
from viewfinder.store.takedowns import records_named

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

# Servers refuse a request line over 64 KiB, and a character may take 12 bytes of it. A key of S3 has at most 1,024
# bytes, a path 4,096.
MAX_URI_LENGTH = 5_000
ImageUri = Annotated[
    str | None,
    Query(
        pattern=r"^(s3|file)://",
        max_length=MAX_URI_LENGTH,
        description="URI of the image. If the index has no image `id`, those with a URI that looks the same are meant: "
        "letters with accents have several spellings in Unicode.",
    ),
]

IMAGE_ERRORS: Mapping[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "The image is not in the index, or no longer in its bucket."},
    502: {"model": ErrorResponse, "description": "The bucket refuses access to the object."},
}
ADMIN_ONLY: Mapping[int | str, dict[str, Any]] = {
    403: {"model": ErrorResponse, "description": "The key may search, but not change the index."},
}


def router(service: SearchService) -> APIRouter:
    """The images routes over one replica's service."""
    routes = APIRouter(tags=["images"])
    unavailable: dict[int | str, dict[str, Any]] = {503: ERROR_RESPONSES[503], 504: ERROR_RESPONSES[504]}

    @routes.get(
        "/v1/images/{id}",
        responses={404: IMAGE_ERRORS[404], 422: ERROR_RESPONSES[422], **unavailable},
        summary="Everything the index stores about an image",
    )
    async def image(id: ImageId, seen: Seen, index: Asked, uri: ImageUri = None) -> Image:
        record, collection = await record_of(service, index, seen, id, uri)
        payload = dict(record.payload)
        known = {name: payload.get(name) for name in ("caption", "width", "height")}
        return Image(id=record.id, uri=payload.get("uri", ""), payload=payload, collection=collection.name, **known)

    @routes.delete(
        "/v1/images/{id}",
        dependencies=[Depends(require_admin)],
        responses={**ADMIN_ONLY, 422: ERROR_RESPONSES[422], **unavailable},
        summary="Take an image down",
    )
    async def take_down(id: ImageId, request: Request, seen: Seen, index: Asked, uri: ImageUri = None) -> Removal:
        if seen is not None:
            record, _ = await record_of(service, index, seen, id, uri)
            id, uri = record.id, None
        # Not through the generation: a replica that cannot load its model can still take an image down.
        removal: Removal = await service.in_thread(in_store.take_down, service.store, index.name, id, _canonical(uri))
        logger.info("%s took %s down", getattr(request.state, "id", "?"), removal.uri or id)
        return removal

    @routes.get(
        "/v1/takedowns",
        dependencies=[Depends(require_admin), Depends(require_whole_index)],
        responses={**ADMIN_ONLY, 422: ERROR_RESPONSES[422], **unavailable},
        summary="Images that were taken down",
    )
    async def takedowns(
        index: Asked,
        limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of takedowns.")] = 100,
        offset: Annotated[int, Query(ge=0, le=10_000_000, description="Number of takedowns to skip, by id.")] = 0,
    ) -> Takedowns:
        page: Takedowns = await service.in_thread(in_store.takedowns, service.store, index.name, limit, offset)
        return page

    @routes.delete(
        "/v1/takedowns/{id}",
        dependencies=[Depends(require_admin), Depends(require_whole_index)],
        responses={**ADMIN_ONLY, 422: ERROR_RESPONSES[422], **unavailable},
        summary="Lift a takedown; the next index run adds the image again",
    )
    async def restore(id: ImageId, request: Request, index: Asked, uri: ImageUri = None) -> Restoration:
        restoration: Restoration = await service.in_thread(
            in_store.restore, service.store, index.name, id, _canonical(uri)
        )
        logger.info("%s lifted the takedown of %s", getattr(request.state, "id", "?"), uri or id)
        return restoration

    return routes


async def record_of(
    service: SearchService, index: ServedIndex, seen: KeyFilter, id: str, uri: str | None
) -> tuple[Record, Collection]:
    """The point in the live collection; a 404 if there is none, or the key does not see it."""
    name = _canonical(uri)
    found, collection = await _records(
        service, index, lambda collection: records_named(service.store, collection, id, name, within=seen)
    )
    if held := next(iter(found.values()), None):
        return held, collection
    raise HTTPError(404, "not_found", f"The index holds no image {uri or id!r}.", "Use the id of a hit.")


async def seen_ids(service: SearchService, index: ServedIndex, seen: KeyFilter, ids: Sequence[str]) -> list[str]:
    """Those of the ids that the live collection holds and the key sees, in their order."""
    read = service.store.points.records
    found, _ = await _records(service, index, lambda collection: read(collection, ids, within=seen))
    return [each for each in ids if each in found]


async def _records(
    service: SearchService, index: ServedIndex, read: Callable[[Collection], dict[str, Record]]
) -> tuple[dict[str, Record], Collection]:
    """Return what `read` finds in the live collection, and the collection.

    It is looked up again if it was dropped since the last refresh.
    """
    for last in (False, True):
        collection = index.follower.collection()
        try:
            found: dict[str, Record] = await service.in_thread(read, collection)
        except CollectionMissingError:
            if last:
                raise
            await service.in_thread(index.follower.refresh)
        else:
            return found, collection
    raise AssertionError


def _canonical(uri: str | None) -> str:
    try:
        return canonical_uri(uri) if uri else ""
    except SourceError as error:
        raise HTTPError(422, "invalid_request", str(error), "Pass the URI of a hit.") from error
