"""Takedowns of images by the name that a person types, as the service and `viewfinder takedown` answer them.

Names that are equal in Unicode's NFC are the same. A takedown of a name that the index does not hold is recorded for
the composed spelling of its URI, and holds for every spelling of it.
"""

import itertools
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from viewfinder.client.results import Removal, Restoration, Takedown, Takedowns
from viewfinder.errors import CollectionMissingError
from viewfinder.sources.uris import bucket_and_key, composed, point_id, s3_parts
from viewfinder.store import Collection, Store
from viewfinder.store.takedowns import chosen_ids, records_named, takedowns_named

# URIs to compare a mistyped one with; more take seconds.
_MAX_COMPARED = 20_000
_NEAREST = 3


def take_down(store: Store, index: str, id_: str, uri: str = "") -> Removal:
    """Take down the image `id_`; if there is none, those whose URI is spelled like `uri` (canonical, or "")."""
    held = _held(store, index, id_, uri)
    known = {} if held else takedowns_named(store.control(index), id_, uri)
    uris = {each: takedown.uri for each, takedown in known.items()} | held
    ids = chosen_ids(id_, uris) or [point_id(composed(uri)) if uri else id_]
    removed = store.take_down(index, {each: uris.get(each) or (uri if each == id_ else composed(uri)) for each in ids})
    found = bool(removed) or any(each in known for each in ids)
    recorded = store.control(index).takedowns(ids[:1])
    return Removal(
        id=ids[0],
        uri=recorded[ids[0]].uri if recorded else uri,
        removed=bool(removed),
        before=not removed and found,
        nearest=() if found or not uri else _nearest_uris(uri, _uris(store, index, uri)),
    )


def restore(store: Store, index: str, id_: str, uri: str = "") -> Restoration:
    """Lift the takedowns that `take_down` would find."""
    control = store.control(index)
    ids = list(takedowns_named(control, id_, uri))
    store.restore(index, ids)
    down = (takedown.uri for _, takedown in itertools.islice(control.all_takedowns(), _MAX_COMPARED))
    return Restoration(
        id=ids[0] if ids else id_,
        restored=bool(ids),
        nearest=() if ids or not uri else _nearest_uris(uri, filter(None, down)),
    )


def takedowns(store: Store, index: str, limit: int, offset: int = 0) -> Takedowns:
    """One page of the takedowns of an index, by id."""
    found = itertools.islice(store.control(index).all_takedowns(), offset, offset + limit + 1)
    page = [Takedown(id=each, uri=takedown.uri, at=takedown.at) for each, takedown in found]
    return Takedowns(takedowns=tuple(page[:limit]), more=len(page) > limit)


def stored_uri(store: Store, index: str, id_: str, uri: str = "") -> str | None:
    """The URI of the image of the live collection that `take_down` would find."""
    live = store.collections.live(index)
    return next(iter(_held_in(store, live, id_, uri).values()), None) if live else None


def _nearest_uris(uri: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of the known URIs that are most like `uri`."""
    plain = {_plain_key(each): each for each in itertools.islice(known, _MAX_COMPARED)}
    return tuple(plain[each] for each in get_close_matches(_plain_key(uri), plain, n=_NEAREST))


def _plain_key(uri: str) -> str:
    """The key to compare with others: without the bucket, and without the case and composition of letters."""
    return composed(bucket_and_key(uri)[1]).casefold()


def _held(store: Store, index: str, id_: str, uri: str) -> dict[str, str]:
    """The URIs by id of the points with this name that any collection of the index holds."""
    held: dict[str, str] = {}
    for collection in store.collections.all(index):
        try:
            held |= _held_in(store, collection, id_, uri)
        except CollectionMissingError:
            continue  # dropped by another program since the request above
    return held


def _held_in(store: Store, collection: Collection, id_: str, uri: str) -> dict[str, str]:
    """The URIs by id of the points of one collection, that of `id_` first."""
    found = records_named(store, collection, id_, uri)
    return {each: str(record.payload.get("uri") or "") for each, record in found.items()}


def _uris(store: Store, index: str, uri: str) -> Iterator[str]:
    """The URIs of the live collection in the bucket of `uri`."""
    live = store.collections.live(index)
    bucket = s3_parts(uri)[0] if uri.startswith("s3://") else ""
    if live is not None:
        for record in store.points.iterate(live, {"bucket": {"eq": bucket}}, ["uri"]):
            yield str(record.payload.get("uri") or "")
