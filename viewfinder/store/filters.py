"""The filter language of searches and prunes, translated to Qdrant's.

    {"width": {"gte": 1024}, "tags": {"in": ["beach", "sea"]}}
    {"or": [{"caption": {"text": "red car"}}, {"not": {"meta.year": {"lt": 2020}}}]}

All keys of one object must match. A missing field matches `{"eq": null}` and negations only. A date without a time zone
is in UTC, one without a time means midnight. A text matches however its letters are composed (Unicode's NFC and NFD).
"""

import difflib
import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from qdrant_client import models

from viewfinder.errors import FilterError
from viewfinder.sources.uris import spellings

MAX_FILTER_DEPTH = 8
MAX_CONDITIONS = 200
MAX_VALUES = 1000  # in all lists, and words in all texts, together
MAX_VALUE_CHARACTERS = 4096  # the longest path of Linux, four times the longest key of S3

FIELDS: Mapping[str, str] = {
    **dict.fromkeys(
        ("uri", "bucket", "key", "etag", "format", "kind", "tags", "sources", "run_id", "caption_hash"), "keyword"
    ),
    **dict.fromkeys(("size", "width", "height"), "number"),
    **dict.fromkeys(("last_modified", "indexed_at"), "date"),
    **dict.fromkeys(("has_image", "has_caption"), "flag"),
    "caption": "text",
}
# Fields without a payload index: Qdrant cannot count or group by them.
_UNINDEXED = ("etag", "caption_hash")
_META = re.compile(r'meta(\.[^."\[\]\x00-\x1f\x7f\ud800-\udfff]{1,100}){1,8}')
_WORD = re.compile(r"[^\W_]+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "text")
_RANGE = ("gt", "gte", "lt", "lte")
_ALLOWED = {
    "keyword": ("eq", "ne", "in"),
    "number": ("eq", "ne", "in", *_RANGE),
    "date": ("eq", "ne", *_RANGE),
    "flag": ("eq", "ne"),
    "text": ("eq", "ne", "text"),
    "any": _OPERATORS,  # a field of the captions file may have values of any type
}


def parse_filter(expression: Mapping[str, Any] | None, fields: Collection[str] | None = None) -> models.Filter | None:
    """Return Qdrant's filter for `expression`; None for None and {}.

    `fields` are the known `meta.NAME`s; without them every name is accepted, and an unused name matches nothing.
    For any JSON value it raises only `FilterError`, which names what is wrong and what is valid.
    """
    if expression is None or (isinstance(expression, Mapping) and not expression):
        return None
    return _Parser(fields).parse(expression, 1)


def check_countable(name: object, fields: Mapping[str, str] | None = None) -> None:
    """Raise `FilterError` unless the values of a field can be counted; `fields` are known `meta.NAME`s and types."""
    _check(name, fields, "counted", ("keyword", "number", "flag"), ("keyword", "integer", "bool"))


def check_groupable(name: object, fields: Mapping[str, str] | None = None) -> None:
    """Raise `FilterError` unless points can be grouped by the values of a field; `fields` as in `check_countable`."""
    _check(name, fields, "grouped by", ("keyword", "number"), ("keyword", "integer"))


def field_path(name: str) -> str:
    """Return Qdrant's path of a field, in which parts with special characters are quoted."""
    return ".".join(part if _PLAIN.fullmatch(part) else f'"{part}"' for part in name.split("."))


class _Parser:
    def __init__(self, fields: Collection[str] | None) -> None:
        self._fields = fields
        self._conditions = 0
        self._values = 0

    def parse(self, expression: object, depth: int) -> models.Filter:
        if not isinstance(expression, Mapping) or not expression:
            raise FilterError(
                f'A filter is an object like {{"width": {{"gte": 1024}}}} or {{"and": [...]}}, not {_show(expression)}.'
            )
        if depth > MAX_FILTER_DEPTH:
            raise FilterError(f"The filter is nested more than {MAX_FILTER_DEPTH} levels deep.")
        must: list[Any] = []
        for key, value in expression.items():
            if key in ("and", "or"):
                if not isinstance(value, list) or not value:
                    raise FilterError(f"{key!r} in a filter takes a list of filters, not {_show(value)}.")
                parts: list[Any] = [self.parse(each, depth + 1) for each in value]
                must.append(models.Filter(must=parts) if key == "and" else models.Filter(should=parts))
            elif key == "not":
                must.append(models.Filter(must_not=[self.parse(value, depth + 1)]))
            else:
                must += self._field(key, value)
        return models.Filter(must=must)

    def _field(self, name: object, operations: object) -> list[Any]:
        kind = _kind(name, self._fields)
        if not isinstance(operations, Mapping) or not operations:
            raise FilterError(f'Filter on {name!r}: expected an object like {{"eq": value}}, not {_show(operations)}.')
        for operator, value in operations.items():
            if operator not in _ALLOWED[kind]:
                known = ", ".join(_ALLOWED[kind])
                raise FilterError(f"Filter on {name!r}: unknown operator {_show(operator)}; this field takes {known}.")
            self._count(operator, value)
        return [_condition(str(name), kind, operator, value) for operator, value in operations.items()]

    def _count(self, operator: str, value: object) -> None:
        # Qdrant evaluates each of them for each point.
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"The filter has more than {MAX_CONDITIONS} conditions.")
        if isinstance(value, list):
            self._values += len(value)
        elif operator == "text" and isinstance(value, str):
            self._values += len(_WORD.findall(value[:MAX_VALUE_CHARACTERS]))
        if self._values > MAX_VALUES:
            raise FilterError(
                f"The lists and texts of a filter hold more than {MAX_VALUES:,} values or words together."
            )


def _kind(name: object, fields: Collection[str] | None) -> str:
    if isinstance(name, str):
        if name in FIELDS:
            return FIELDS[name]
        # A known object makes its members known: meta.place.city with meta.place.
        if _META.fullmatch(name) and (
            fields is None or any(name == known or name.startswith(f"{known}.") for known in fields)
        ):
            return "any"
    known = sorted({*FIELDS, *(fields or ())})
    close = difflib.get_close_matches(name[:100], known, n=1) if isinstance(name, str) else []
    if isinstance(name, str) and not close and f"meta.{name}" in known:
        close = [f"meta.{name}"]
    nearest = f" Closest: {close[0]!r}." if close else ""
    others = ", and meta.NAME for fields of the captions file" if fields is None else ""
    raise FilterError(f"Unknown field {_show(name)}.{nearest} Known fields: {_listed(known)}{others}.")


def _check(
    name: object,
    fields: Mapping[str, str] | None,
    what: str,
    kinds: Collection[str],
    types: Collection[str],
) -> None:
    kind = _kind(name, fields)
    usable = kind in kinds and name not in _UNINDEXED
    if kind == "any":
        usable = fields is None or fields.get(str(name), "object") in types
    if not usable:
        own = [each for each in FIELDS if FIELDS[each] in kinds and each not in _UNINDEXED]
        known = sorted(own + [each for each in fields or () if (fields or {})[each] in types])
        raise FilterError(f"Field {name!r} cannot be {what}. Fields that can: {_listed(known)}.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:100]) + (f" and {len(names) - 100} more" if len(names) > 100 else "")


def _condition(name: str, kind: str, operator: str, value: object) -> Any:
    if operator == "ne":
        return models.Filter(must_not=[_condition(name, kind, "eq", value)])
    if operator == "in":
        if not isinstance(value, list) or not value:
            raise FilterError(f"Filter on {name!r}: 'in' takes a list of 1 to {MAX_VALUES} values, not {_show(value)}.")
        return _any_of(name, kind, value)
    if operator == "text":
        if not isinstance(value, str) or not _WORD.search(value):
            raise FilterError(f"Filter on {name!r}: 'text' takes words, not {_show(value)}.")
        texts = spellings(_text(name, value))
        return _either(
            [models.FieldCondition(key=field_path(name), match=models.MatchText(text=each)) for each in texts]
        )
    if operator == "eq":
        return _equal(name, kind, value)
    return _range(name, kind, **{operator: value})


def _equal(name: str, kind: str, value: object) -> Any:
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=field_path(name)))
    if kind == "date":
        return _range(name, kind, gte=value, lte=value)
    if kind == "flag" and not isinstance(value, bool):
        raise FilterError(f"Filter on {name!r}: expected true or false, not {_show(value)}.")
    if kind in ("keyword", "text") and not isinstance(value, str):
        raise FilterError(f"Filter on {name!r}: expected a string, not {_show(value)}.")
    if kind == "number" or (isinstance(value, int | float) and not isinstance(value, bool)):
        value = _number(name, value)
    if isinstance(value, float):  # Qdrant has no match by float; a range of one value is equivalent
        return _range(name, "number", gte=value, lte=value)
    if not isinstance(value, str | bool | int):
        raise FilterError(f"Filter on {name!r}: expected a string, a number, true, false or null, not {_show(value)}.")
    if isinstance(value, str):
        same = spellings(_text(name, value))
        if len(same) > 1:
            return models.FieldCondition(key=field_path(name), match=models.MatchAny(any=same))
    return models.FieldCondition(key=field_path(name), match=models.MatchValue(value=value))


def _any_of(name: str, kind: str, values: list[Any]) -> Any:
    each_equal = [_equal(name, kind, value) for value in values]
    # Qdrant's "any" accepts only strings or only integers.
    if all(type(value) is str for value in values):
        same = dict.fromkeys(each for value in values for each in spellings(value))
        return models.FieldCondition(key=field_path(name), match=models.MatchAny(any=list(same)))
    if all(type(value) is int for value in values):
        return models.FieldCondition(key=field_path(name), match=models.MatchAny(any=values))
    return models.Filter(should=each_equal)


def _either(conditions: list[Any]) -> Any:
    return conditions[0] if len(conditions) == 1 else models.Filter(should=conditions)


def _range(name: str, kind: str, **bounds: object) -> Any:
    convert: Callable[[str, object], Any] = _date if kind == "date" or _dated(kind, bounds) else _number
    limits = {operator: convert(name, value) for operator, value in bounds.items()}
    made = models.Range(**limits) if convert is _number else models.DatetimeRange(**limits)
    return models.FieldCondition(key=field_path(name), range=made)


def _dated(kind: str, bounds: Mapping[str, object]) -> bool:
    return kind == "any" and all(isinstance(value, str) for value in bounds.values())


def _number(name: str, value: object) -> int | float:
    # bool is an int in Python but not in JSON; 1e999 parses as infinity, which JSON cannot represent.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 2**63 - 1:
        raise FilterError(f"Filter on {name!r}: expected a number, not {_show(value)}.")
    return value


def _text(name: str, value: str) -> str:
    if len(value) > MAX_VALUE_CHARACTERS:
        raise FilterError(
            f"Filter on {name!r}: a text of {len(value):,} characters; the maximum is {MAX_VALUE_CHARACTERS:,}."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FilterError(f"Filter on {name!r}: {_show(value)} is invalid Unicode (a lone surrogate).") from error
    return value


def _date(name: str, value: object) -> datetime:
    try:
        if not isinstance(value, str):
            raise ValueError("not a string")
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # OverflowError: with its time zone it is outside the years 1 to 9999
        raise FilterError(
            f'Filter on {name!r}: expected a date as in "2024-05-31" or "2024-05-31T12:00:00Z", not {_show(value)}.'
        ) from error


class _BoundedRepr(reprlib.Repr):
    """A `repr` of bounded depth and length for values from clients."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxstring, self.maxother = 2, 3, 4, 80, 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to format thousands of digits.
        return repr(x) if abs(x) < 10**30 else "a number of more than 30 digits"

    def repr_float(self, x: float, level: int) -> str:
        return repr(x)


def _show(value: object) -> str:
    text = _BoundedRepr().repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
