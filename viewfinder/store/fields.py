"""Fields of captions files, named `meta.NAME` in filters, and their kinds.

A kind is a type of Qdrant's payload indexes: keyword, integer, float, bool, datetime or text.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from viewfinder.errors import FilterError
from viewfinder.store.filters import parse_filter

# Each field is an index in memory, and filters use few of the fields of a file that has more.
MAX_FIELDS = 64
# Longer strings are indexed as words, not compared as a whole.
MAX_KEYWORD_CHARACTERS = 128

# fromisoformat also accepts "20240101" and "2024-W01", which are often not dates.
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].+)?")


class Fields:
    """The fields of the records added so far."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, meta: Mapping[str, Any]) -> None:
        """Add the fields of one record."""
        for name, kind in _leaves("meta", meta):
            self._counts[name] += 1
            self._kinds[name] = _wider(self._kinds.get(name, kind), kind)

    def merged(self, known: Mapping[str, str], *, maximum: int = MAX_FIELDS) -> dict[str, str]:
        """Return kinds by name: the `known` ones, then the most frequent new ones. A kind can only become wider."""
        merged = {name: _wider(kind, self._kinds.get(name, kind)) for name, kind in known.items()}
        for name, _ in sorted(self._counts.items(), key=lambda each: (-each[1], each[0])):
            if len(merged) >= maximum:
                break
            if name not in merged and _can_be_named(name):
                merged[name] = self._kinds[name]
        return merged


def _leaves(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif isinstance(value, list):  # a filter matches any of its values
        for inner in value:
            if not isinstance(inner, Mapping | list):
                yield from _leaves(name, inner)
    elif kind := _kind(value):
        yield name, kind


def _kind(value: object) -> str | None:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "integer" if abs(value) < 2**63 else "float"
    if isinstance(value, float):
        return "float"
    if not isinstance(value, str) or not value:
        return None
    if _DATE.fullmatch(value) and _is_date(value):
        return "datetime"
    return "keyword" if len(value) <= MAX_KEYWORD_CHARACTERS else "text"


def _wider(one: str, other: str) -> str:
    """Return the kind that fits the values of both; keyword if no other kind does."""
    kinds = {one, other}
    if len(kinds) == 1:
        return one
    if kinds == {"integer", "float"}:
        return "float"
    return "text" if "text" in kinds else "keyword"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _can_be_named(name: str) -> bool:
    try:
        parse_filter({name: {"eq": None}})
    except FilterError:
        return False
    return True
