"""Takedowns of images by the name that a person types, as the service and `viewfinder takedown` answer them.

Composed and decomposed letters are the same. A takedown of a name that the index does not hold is recorded for the
composed spelling of its URI, and holds for every spelling of it.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from viewfinder.client.results import Removal, Restoration, Takedown, Takedowns
from viewfinder.errors import CollectionMissingError
from viewfinder.sources.uris import bucket_and_key, composed, point_id, s3_parts
from viewfinder.store import Store
from viewfinder.store.takedowns import chosen_ids, names_of

# URIs to compare a mistyped one with; more take seconds.
_MAX_COMPARED = 20_000
_NEAREST = 3


def take_down(store: Store, index: str, id_: str, uri: str = "") -> Removal:
    """Take down the image `id_`; if there is none, those whose URI is spelled like `uri` (canonical, or "")."""
    names = names_of(id_, uri)
    held = _held(store, index, list(names))
    known = store.control(index).takedowns(list(names))
    ids = chosen_ids(id_, {*held, *known}) or [point_id(composed(uri)) if uri else id_]
    removed = store.take_down(index, {each: held.get(each) or names.get(each) or composed(uri) for each in ids})
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
    ids = chosen_ids(id_, control.takedowns(list(names_of(id_, uri))))
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
    ids = list(names_of(id_, uri))
    records = store.points.records(live, ids) if live else {}
    return next((str(records[each].payload.get("uri", "")) for each in ids if each in records), None)


def _nearest_uris(uri: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of the known URIs that are most like `uri`."""
    plain = {_plain_key(each): each for each in itertools.islice(known, _MAX_COMPARED)}
    return tuple(plain[each] for each in get_close_matches(_plain_key(uri), plain, n=_NEAREST))


def _plain_key(uri: str) -> str:
    """The key to compare with others: without the bucket, and without the case and composition of letters."""
    return composed(bucket_and_key(uri)[1]).casefold()


def _held(store: Store, index: str, ids: Sequence[str]) -> dict[str, str]:
    """The URIs of those points that any collection of the index holds."""
    held: dict[str, str] = {}
    for collection in store.collections.all(index):
        try:
            records = store.points.records(collection, ids)
        except CollectionMissingError:
            continue  # dropped by another program since the request above
        held |= {each: str(record.payload.get("uri") or "") for each, record in records.items()}
    return held


def _uris(store: Store, index: str, uri: str) -> Iterator[str]:
    """The URIs of the live collection in the bucket of `uri`."""
    live = store.collections.live(index)
    bucket = s3_parts(uri)[0] if uri.startswith("s3://") else ""
    if live is not None:
        for record in store.points.iterate(live, {"bucket": {"eq": bucket}}, ["uri"]):
            yield str(record.payload.get("uri") or "")
