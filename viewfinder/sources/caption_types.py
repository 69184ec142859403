"""Types of the fields of captions files, which filters name `meta.NAME`.

A field has one type in all captions files of a run, decided by all of its values, whether they are text or not:

    integer, float   numbers as JSON writes them. Text: 007, +49, 1,234, 12e3, and more than 18 digits
    bool             true and false, in any case. Text: yes, no
    datetime         ISO dates, with or without time and zone
    keyword          all else, and values of different types; `text` if one is too long to be compared as a whole

Markers of missing values (`MISSING_MARKERS`) are no values in the cells of a file. The words in `MISSING_WORDS` may be
values: in a field of text they are; in a field of another type, or as a caption or tags, they mean that there is none.
"""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from viewfinder.errors import ConfigurationError

# Longer strings are indexed as words, not compared as a whole.
MAX_KEYWORD_CHARACTERS = 128
# Names of fields of one file. A file with more has data as names, which would fill the memory.
MAX_NAMES = 10_000
# Qdrant and JSON libraries limit how deep an object may be nested.
MAX_NESTING = 64

# Databases, pandas and spreadsheets write these for a missing value or an error. Nobody uses them as a value.
_NULLS = ("\\N", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "NaT", "<NA>")
_ERRORS = ("#N/A", "#NA", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#CALC!", "#ERROR!")
MISSING_MARKERS = frozenset((*_NULLS, *_ERRORS))
# The same where they are the whole of a caption or of its tags. NA is also the code of Namibia, None a name.
MISSING_WORDS = frozenset({"None", "NA", "N/A", "n/a"})

# The type of a marker or word that stands for no value, unless the field is text. Spellings as "na" occur by hand.
_MISSING = "missing"
_FOLDED_MISSING = frozenset(word.casefold() for word in MISSING_MARKERS | MISSING_WORDS)
_BOOLEANS = {"true": True, "false": False}
# An identifier has leading zeros, or more digits than a number can hold.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?((0|[1-9]\d{0,17})?\.\d{1,40}([eE][+-]?\d{1,3})?|[1-9]\d{0,17}[eE][+-]\d{1,3})", re.ASCII)
# fromisoformat also accepts "20240101" and "2024-W01", which are often not dates.
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d.+)?", re.ASCII)
_NUMBERS = ("integer", "float")
_TEXTS = ("keyword", "text")


class FieldSurvey:
    """The types of the first `MAX_NAMES` fields of one captions file; `left_out` counts the values of others."""

    def __init__(self) -> None:
        self.left_out = 0
        self.kinds: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def add(self, meta: Mapping[str, Any]) -> None:
        """Add the fields of one record."""
        for name, value in _leaves("meta", meta):
            if (kind := _kind(value)) is None:
                continue
            if name not in self.counts and len(self.counts) >= MAX_NAMES:
                self.left_out += 1
                continue
            self.counts[name] = self.counts.get(name, 0) + 1
            before = self.kinds.get(name)
            if before != kind:
                self.kinds[name] = kind if before is None else _wider(before, kind)


class FieldTypes:
    """The types of the fields of all captions files of a run.

    `surveys` are those of the files by URI. `known` are the types that files outside this run gave to fields: where
    they differ, the field is text. `kinds` holds the type of each field of the files, the most frequent field first.
    """

    def __init__(
        self, surveys: Mapping[str, FieldSurvey] | None = None, known: Mapping[str, str] | None = None
    ) -> None:
        self._surveys, self._known = dict(surveys or {}), dict(known or {})
        counts = Counter[str]()
        for each in self._surveys.values():
            counts.update(each.counts)
        self.kinds = {name: self._kind(name) for name in sorted(counts, key=lambda name: (-counts[name], name))}

    def convert(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a record with the types that they have in all files."""
        converted: dict[str, Any] = self._convert("meta", meta)
        return converted

    def conflicts(self) -> list[str]:
        """Return a message for each field that has numbers, booleans or dates in one file and text in another."""
        messages = []
        for name, kind in self.kinds.items():
            in_files = self._in_files(name)
            typed = [each for each in in_files.items() if each[1] not in _TEXTS]
            if kind in _TEXTS and typed and len(in_files) > 1:
                where, typed_kind = typed[0]
                other, other_kind = next(each for each in in_files.items() if each[1] != typed_kind)
                messages.append(
                    f"The field {name.removeprefix('meta.')!r} is {_ARTICLES[typed_kind]} in {where} and "
                    f"{_ARTICLES[other_kind]} in {other}, so it is compared as text."
                )
        return messages

    def excess(self) -> list[str]:
        """Return a message for each file with more fields than are known."""
        return [
            f"{uri} has more than {MAX_NAMES:,} fields: {each.left_out:,} values of the others are stored as they are, "
            "and no filter knows them. Are their names data?"
            for uri, each in self._surveys.items()
            if each.left_out
        ]

    def _kind(self, name: str) -> str:
        kind = functools.reduce(_wider, self._in_files(name).values(), _MISSING)
        return "keyword" if kind == _MISSING else kind

    def _in_files(self, name: str) -> dict[str, str]:
        """Return the type of a field by the file, without files that have no value of it."""
        found = {repr(uri): each.kinds.get(name, _MISSING) for uri, each in self._surveys.items()}
        found["the files of earlier runs"] = self._known.get(name, _MISSING)
        return {place: kind for place, kind in found.items() if kind != _MISSING}

    def _convert(self, name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            members = {key: (inner, self._convert(f"{name}.{key}", inner)) for key, inner in value.items()}
            return {key: made for key, (inner, made) in members.items() if made is not None or inner is None}
        if isinstance(value, list):
            made = [
                _storable(each) if isinstance(each, Mapping | list) else self._convert(name, each) for each in value
            ]
            return [each for each in made if each is not None]
        convert = _CONVERTERS.get(self.kinds.get(name, ""))
        return _storable(value) if convert is None else convert(value)


_ARTICLES = {
    "integer": "a number",
    "float": "a number",
    "bool": "a boolean",
    "datetime": "a date",
    "keyword": "text",
    "text": "text",
}


def nested(fields: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Split names at their dots: `exif.iso` becomes the field `iso` of `exif`, which filters call `meta.exif.iso`.

    Dots at the ends mean nothing. Raises `ConfigurationError` if two fields then have the same name.
    """
    if not any("." in name or isinstance(value, Mapping) for name, value in fields.items()):
        return dict(fields)
    made: dict[str, Any] = {}
    for name, value in fields.items():
        parts = [part.strip() for part in name.split(".") if part.strip()] or [name]
        if len(parts) > MAX_NESTING:
            raise ConfigurationError(
                f"{place}: the field {name[:80]!r}… is nested more than {MAX_NESTING} levels deep."
            )
        tree = nested(value, place) if isinstance(value, Mapping) else value
        for part in reversed(parts):
            tree = {part: tree}
        _merge(made, tree, name, place)
    return made


def _merge(made: dict[str, Any], tree: Mapping[str, Any], name: str, place: str) -> None:
    for key, inner in tree.items():
        if key not in made:
            made[key] = inner
        elif isinstance(made[key], dict) and isinstance(inner, dict):
            _merge(made[key], inner, name, place)
        else:
            raise _collision(name, place)


def plain(value: Any) -> Any:
    """Return a value of a table as JSON has it: a date or a decimal as text, NaN and infinity as None."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): made for name, inner in value.items() if (made := plain(inner)) is not None}
    if isinstance(value, list | tuple):
        return [made for inner in value if (made := plain(inner)) is not None]
    return str(value)


def _collision(name: str, place: str) -> ConfigurationError:
    return ConfigurationError(
        f"{place}: the field {name!r} collides with another one, because a dot in a name means a field inside a field. "
        "Rename one of them."
    )


def _wider(one: str, other: str) -> str:
    """Return the type that fits the values of both; keyword if no other one does."""
    if one == other or other == _MISSING:
        return one
    if one == _MISSING:
        return other
    kinds = {one, other}
    if kinds == {"integer", "float"}:
        return "float"
    return "text" if "text" in kinds else "keyword"


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif isinstance(value, list):  # a filter matches any of its values
        for inner in value:
            if not isinstance(inner, Mapping | list):
                yield name, inner
    else:
        yield name, value


def _kind(value: object) -> str | None:
    """Return the type of one value; None if it is empty."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) < 2**63:
            return "integer"
        return "float" if isinstance(_storable(value), float) else "text"
    if isinstance(value, float):
        return "float" if math.isfinite(value) else "keyword"
    if not isinstance(value, str) or not value:
        return None
    if len(value) > MAX_KEYWORD_CHARACTERS:
        return "text"
    first, folded = value[0], value.casefold()
    if folded in _FOLDED_MISSING:
        return _MISSING
    if first in "-.0123456789":
        if _INTEGER.fullmatch(value):
            return "integer"
        if _FLOAT.fullmatch(value) and math.isfinite(float(value)):
            return "float"
        return "datetime" if _DATE.fullmatch(value) and _is_date(value) else "keyword"
    return "bool" if folded in _BOOLEANS else "keyword"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _storable(value: Any) -> Any:
    """Return a value without integers of more than 64 bits, which Qdrant refuses, and without infinity."""
    if isinstance(value, Mapping):
        return {name: _storable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if not isinstance(value, int) or abs(value) < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return str(value)


def _as_number(value: Any) -> Any:
    if not isinstance(value, str):
        return _storable(value)
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _FLOAT.fullmatch(value) else None


def _as_boolean(value: Any) -> Any:
    return _BOOLEANS.get(value.casefold()) if isinstance(value, str) else value


def _as_date(value: Any) -> Any:
    """Return a date in the form that Qdrant reads; one without a time stays as it is, because it means the day."""
    if not isinstance(value, str) or not _DATE.fullmatch(value) or not _is_date(value):
        return None
    return value if len(value) == len("2024-05-31") else datetime.fromisoformat(value).isoformat()


def _number_as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | int | float) else value


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_NUMBERS, _as_number),
    "bool": _as_boolean,
    "datetime": _as_date,
    **dict.fromkeys(_TEXTS, _number_as_text),
}
