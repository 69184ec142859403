"""Takedowns of images by the name that a person types: composed and decomposed letters are the same.

A takedown of a name that the index does not hold is recorded for the composed spelling of its URI, and holds for every
spelling of it.
"""

import itertools
from collections.abc import Collection as Container
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from viewfinder.errors import CollectionMissingError
from viewfinder.sources.uris import bucket_and_key, composed, point_id, s3_parts, spellings
from viewfinder.store.control import Control
from viewfinder.store.store import Store

# URIs to compare a mistyped one with; more take seconds.
_MAX_COMPARED = 20_000
_NEAREST = 3


@dataclass(frozen=True)
class TakenDown:
    """The images of one name: `removed` until now, or `before`; neither if the index has no such image.

    `nearest` are URIs that the index has, if it has none of this name.
    """

    ids: Sequence[str]
    uri: str
    removed: bool
    before: bool
    nearest: Sequence[str] = ()


def take_down(store: Store, index: str, id_: str, uri: str = "") -> TakenDown:
    """Take down the image `id_`; if there is none, those whose URI is spelled like `uri` (canonical, or "")."""
    names = names_of(id_, uri)
    held = _held(store, index, list(names))
    known = store.control(index).takedowns(list(names))
    ids = _chosen(id_, {*held, *known}) or [point_id(composed(uri)) if uri else id_]
    removed = store.take_down(index, {each: held.get(each) or names.get(each) or composed(uri) for each in ids})
    found = bool(removed) or any(each in known for each in ids)
    recorded = store.control(index).takedowns(ids[:1])
    return TakenDown(
        ids=ids,
        uri=recorded[ids[0]].uri if recorded else uri,
        removed=bool(removed),
        before=not removed and found,
        nearest=() if found or not uri else nearest(uri, _uris(store, index, uri)),
    )


def restore(store: Store, index: str, id_: str, uri: str = "") -> TakenDown:
    """Lift the takedowns that `take_down` would find. `before` is True if there was one."""
    control = store.control(index)
    known = control.takedowns(list(names_of(id_, uri)))
    ids = _chosen(id_, known)
    store.restore(index, ids)
    down = (takedown.uri for _, takedown in itertools.islice(control.all_takedowns(), _MAX_COMPARED))
    return TakenDown(
        ids=ids or [id_],
        uri=known[ids[0]].uri if ids else uri,
        removed=False,
        before=bool(ids),
        nearest=() if ids or not uri else nearest(uri, filter(None, down)),
    )


def held_id(store: Store, index: str, id_: str, uri: str = "") -> str | None:
    """Return the id of the image in the live collection, or of one whose URI is spelled like `uri`."""
    live = store.collections.live(index)
    states = store.points.states(live, list(names_of(id_, uri))) if live else {}
    return next(iter(_chosen(id_, states)), None)


def taken_down(control: Control, uris: Mapping[str, str]) -> set[str]:
    """Return those of the points (id: URI) that have a takedown, by id or for every spelling of their URI."""
    names = {each: point_id(composed(uri)) for each, uri in uris.items()}
    found = control.takedowns(list({*names, *names.values()}))
    return {each for each, name in names.items() if each in found or name in found}


def names_of(id_: str, uri: str) -> dict[str, str]:
    """Return the URIs that look like `uri` by point id, that of `id_` first."""
    return {id_: uri} | ({point_id(each): each for each in spellings(uri)} if uri else {})


def nearest(uri: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known URIs that are most like `uri`."""
    plain = {_plain_key(each): each for each in itertools.islice(known, _MAX_COMPARED)}
    return [plain[each] for each in get_close_matches(_plain_key(uri), plain, n=_NEAREST)]


def _plain_key(uri: str) -> str:
    """Return the key to compare with others: without the bucket, and without the case and composition of letters."""
    return composed(bucket_and_key(uri)[1]).casefold()


def _held(store: Store, index: str, ids: Sequence[str]) -> dict[str, str]:
    """Return the URIs of those points that any collection of the index holds."""
    held: dict[str, str] = {}
    for collection in store.collections.all(index):
        try:
            records = store.points.records(collection, ids)
        except CollectionMissingError:
            continue  # dropped by another program since the request above
        held |= {each: str(record.payload.get("uri") or "") for each, record in records.items()}
    return held


def _chosen(id_: str, found: Container[str]) -> list[str]:
    """Return `id_` alone if it was found, else all others that were."""
    return [id_] if id_ in found else sorted(found)


def _uris(store: Store, index: str, uri: str) -> Iterator[str]:
    """Yield the URIs of the live collection in the bucket of `uri`."""
    live = store.collections.live(index)
    bucket = s3_parts(uri)[0] if uri.startswith("s3://") else ""
    if live is not None:
        for record in store.points.iterate(live, {"bucket": {"eq": bucket}}, ["uri"]):
            yield str(record.payload.get("uri") or "")
