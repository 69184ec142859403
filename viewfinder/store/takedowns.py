"""Which points a name means, and which of them are taken down: composed and decomposed letters are the same."""

from collections.abc import Collection as Container
from collections.abc import Mapping

from viewfinder.sources.uris import composed, point_id, spellings
from viewfinder.store.control import Control
from viewfinder.store.store import Store


def held_id(store: Store, index: str, id_: str, uri: str = "") -> str | None:
    """Return the id of the image in the live collection, or of one whose URI is spelled like `uri`."""
    live = store.collections.live(index)
    states = store.points.states(live, list(names_of(id_, uri))) if live else {}
    return next(iter(chosen_ids(id_, states)), None)


def taken_down(control: Control, uris: Mapping[str, str]) -> set[str]:
    """Return those of the points (id: URI) that have a takedown, by id or for every spelling of their URI."""
    names = {each: point_id(composed(uri)) for each, uri in uris.items()}
    found = control.takedowns(list({*names, *names.values()}))
    return {each for each, name in names.items() if each in found or name in found}


def names_of(id_: str, uri: str) -> dict[str, str]:
    """Return the URIs that look like `uri` by point id, that of `id_` first."""
    return {id_: uri} | ({point_id(each): each for each in spellings(uri)} if uri else {})


def chosen_ids(id_: str, found: Container[str]) -> list[str]:
    """Return `id_` alone if it was found, else all others that were."""
    return [id_] if id_ in found else sorted(found)
