"""Which points a name means, and which of them are taken down: names that are equal in Unicode's NFC are the same."""

from collections.abc import Collection as Container
from collections.abc import Mapping, Sequence

from viewfinder.sources.uris import composed, has_one_spelling, point_id, spellings
from viewfinder.store.conditions import KeyFilter
from viewfinder.store.control import Control, TakedownRecord
from viewfinder.store.records import Record
from viewfinder.store.schema import Collection
from viewfinder.store.store import Store


def held_id(store: Store, index: str, id_: str, uri: str = "") -> str | None:
    """Return the id of the image in the live collection, or of one whose URI is spelled like `uri`."""
    live = store.collections.live(index)
    found = records_named(store, live, id_, uri) if live else {}
    return next(iter(chosen_ids(id_, found)), None)


def records_named(
    store: Store, collection: Collection, id_: str, uri: str, *, within: KeyFilter = None
) -> dict[str, Record]:
    """Return the points by id that match `within` and have this id or a URI that looks like `uri`, that of `id_` first.

    Those that an older version has written are found if each part of their path is in NFC or NFD.
    """
    ids = [id_]
    if uri:
        name = composed(uri)
        ids += map(point_id, (name, *spellings(uri)))
        ids += store.points.composed(collection, [point_id(name)])
    records = store.points.records(collection, list(dict.fromkeys(ids)), within=within)
    return {each: records[each] for each in ids if each in records}


def taken_down(control: Control, uris: Mapping[str, str]) -> set[str]:
    """Return those of the points (id: URI) that have a takedown, by id or for every spelling of their URI."""
    names = {each: point_id(composed(uri)) for each, uri in uris.items()}
    found = control.takedowns(list({*names, *names.values()}))
    return {each for each, name in names.items() if each in found or name in found}


def points_taken_down(store: Store, collection: Collection, ids: Sequence[str]) -> list[str]:
    """Return the ids of the points that are taken down by takedowns of `ids`."""
    return [*store.points.states(collection, ids), *store.points.composed(collection, ids)]


def takedowns_named(control: Control, id_: str, uri: str) -> dict[str, TakedownRecord]:
    """Return the takedowns by point id that exclude `id_`; if there is none, those of URIs that look like `uri`."""
    found = control.takedowns([id_])
    uri = uri or next((each.uri for each in found.values()), "")
    if not uri:
        return found
    name = composed(uri)
    found |= control.takedowns([point_id(name)])
    if found or has_one_spelling(uri):
        return found
    return {each: takedown for each, takedown in control.all_takedowns() if composed(takedown.uri) == name}


def chosen_ids(id_: str, found: Container[str]) -> list[str]:
    """Return `id_` alone if it was found, else all others that were."""
    return [id_] if id_ in found else sorted(found)
