"""Payload fields: their names and kinds, as filters, facets and groups name them.

A kind is a type of Qdrant's payload indexes. A field of a captions file is `meta.NAME`, one in an object
`meta.OBJECT.NAME`.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from viewfinder.errors import FilterError
from viewfinder.store.shown import show
from viewfinder.wording import listed

KEYWORD: Final = "keyword"
INTEGER: Final = "integer"
FLOAT: Final = "float"
BOOL: Final = "bool"
DATETIME: Final = "datetime"
TEXT: Final = "text"
ANY: Final = "any"
"""The kind of a field while the fields of a collection are unknown."""

FIELDS: Mapping[str, str] = {
    **dict.fromkeys(("uri", "bucket", "key", "format", "kind", "tags", "sources", "run_id", "image_hash"), KEYWORD),
    **dict.fromkeys(("size", "width", "height"), INTEGER),
    **dict.fromkeys(("last_modified", "indexed_at"), DATETIME),
    **dict.fromkeys(("has_image", "has_caption"), BOOL),
    "caption": TEXT,
}
# Payload fields without an index: a filter would read every point, and a server in strict mode refuses it.
_WITHOUT_INDEX = ("etag", "caption_hash")
# Nearly every point has another value: a facet would hold them all in Qdrant's memory, to count each once.
_UNIQUE = ("uri", "key", "image_hash")
_COUNTABLE = (KEYWORD, INTEGER, BOOL)
_GROUPABLE = (KEYWORD, INTEGER)
_SORTABLE = (INTEGER, FLOAT, DATETIME)

_META = re.compile(r'meta(\.[^."\[\]\x00-\x1f\x7f\ud800-\udfff]{1,100}){1,8}')
_MAX_LISTED = 100
_UNQUOTED = re.compile(r"[A-Za-z0-9_-]+")


def find_field(name: object, fields: Mapping[str, str] | None) -> tuple[str, str]:
    """Return the name of a field and its kind. `fields` are known `meta.NAME`s and kinds; None: any name may be.

    Raises `FilterError` with the closest and all known names.
    """
    if name in _WITHOUT_INDEX:
        raise FilterError(f"Field {name!r} cannot be compared: it has no index. {_known_fields(fields)}")
    if isinstance(name, str):
        if name in FIELDS:
            return name, FIELDS[name]
        if _META.fullmatch(name):
            if fields is None:
                return name, ANY
            if name in fields:
                return name, fields[name]
    raise FilterError(_unknown(name, fields))


def check_countable(name: object, fields: Mapping[str, str] | None = None) -> str:
    """Return the name of a field whose values can be counted; raise `FilterError` for another."""
    return _usable(name, fields, "counted", _COUNTABLE, _UNIQUE)


def check_groupable(name: object, fields: Mapping[str, str] | None = None) -> str:
    """Return the name of a field that points can be grouped by; raise `FilterError` for another."""
    return _usable(name, fields, "grouped by", _GROUPABLE, ())


def check_sortable(name: object, fields: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return the name and kind of a field that points can be ordered by; raise `FilterError` for another."""
    return find_field(_usable(name, fields, "ordered by", _SORTABLE, ()), fields)


def field_path(name: str) -> str:
    """Return Qdrant's path of a field, in which parts with special characters are quoted."""
    return ".".join(part if _UNQUOTED.fullmatch(part) else f'"{part}"' for part in name.split("."))


def values_of(payload: object, name: str) -> list[Any]:
    """Return the values that a field has in a payload."""
    for key in name.split("."):
        payload = payload.get(key) if isinstance(payload, Mapping) else None
    return payload if isinstance(payload, list) else [payload]


def _usable(
    name: object, fields: Mapping[str, str] | None, what: str, kinds: Collection[str], excluded: Collection[str]
) -> str:
    known_name, kind = find_field(name, fields)
    if kind != ANY and (kind not in kinds or known_name in excluded):
        own = [each for each in FIELDS if FIELDS[each] in kinds and each not in excluded]
        others = [each for each, other in (fields or {}).items() if other in kinds]
        raise FilterError(
            f"Field {known_name!r} cannot be {what}: {_why_not_counted(kind, kinds)}. "
            f"Fields that can: {listed(sorted(own + others), _MAX_LISTED)}."
        )
    return known_name


def _why_not_counted(kind: str, kinds: Collection[str]) -> str:
    return f"its type is {kind}" if kind not in kinds else "nearly every image has another value"


def _unknown(name: object, fields: Mapping[str, str] | None) -> str:
    known = sorted({*FIELDS, *(fields or ())})
    close = difflib.get_close_matches(name[:100], known, n=1) if isinstance(name, str) else []
    if isinstance(name, str) and not close and f"meta.{name}" in known:
        close = [f"meta.{name}"]
    nearest = f" Closest: {close[0]!r}." if close else ""
    return f"Unknown field {show(name)}.{nearest} {_known_fields(fields)}"


def _known_fields(fields: Mapping[str, str] | None) -> str:
    others = ", and meta.NAME for fields of the captions file" if fields is None else ""
    return f"Known fields: {listed(sorted({*FIELDS, *(fields or ())}), _MAX_LISTED)}{others}."
