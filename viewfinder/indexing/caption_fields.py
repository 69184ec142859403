"""Fields of captions files: recorded with the collection and indexed for filters before data is written."""

import logging
from collections.abc import Mapping

from viewfinder.errors import FilterError
from viewfinder.store import Collection, Store
from viewfinder.store.filters import parse_filter
from viewfinder.wording import listed

logger = logging.getLogger("viewfinder.index")

# Each field is an index in memory, and filters use few of the fields of a file that has more.
MAX_FIELDS = 64
_MAX_LOGGED = 20


def record_fields(store: Store, collection: Collection, fields: Mapping[str, str]) -> dict[str, str]:
    """Record and index fields (`Manifest.fields`, the most frequent first); return those of the collection by name.

    The type of a known field is replaced, because all captions files of the run have the new one.
    """
    known = collection.recorded.fields
    nameable = [name for name in fields if _can_be_named(name)]
    new = [name for name in nameable if name not in known]
    room = max(0, MAX_FIELDS - len(known))
    merged = dict(known) | {name: fields[name] for name in nameable if name in known}
    merged |= {name: fields[name] for name in new[:room]}
    changed = {name: kind for name, kind in merged.items() if known.get(name) != kind}
    if changed:
        logger.info("New filter fields: %s", ", ".join(f"{name} ({kind})" for name, kind in changed.items()))
        store.collections.add_fields(collection, changed)
    if unnamed := fields.keys() - set(nameable):
        logger.warning(
            "No filter can name these fields, because their names have quotation marks, brackets, control characters "
            "or more than 100 characters, or are nested too deep; rename them: %s",
            listed(list(map(repr, sorted(unnamed))), _MAX_LOGGED),
        )
    if new[room:]:
        logger.warning(
            "Filters know %d fields, not these: %s", MAX_FIELDS, listed(list(map(repr, new[room:])), _MAX_LOGGED)
        )
    return merged


def _can_be_named(name: str) -> bool:
    try:
        parse_filter({name: {"eq": None}})
    except FilterError:
        return False
    return True
