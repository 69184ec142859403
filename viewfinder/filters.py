"""The filter language of searches and prunes, and its translation into Qdrant's.

    {"width": {"gte": 1024}, "tags": {"in": ["beach", "sea"]}}
    {"or": [{"caption": {"text": "red car"}}, {"not": {"meta.year": {"lt": 2020}}}]}

All keys of one object must hold. A field that is missing matches `{"eq": null}`, and nothing else but negations.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from qdrant_client import models

from viewfinder.errors import FilterError

MAX_DEPTH = 8
MAX_CONDITIONS = 200
MAX_VALUES = 1000

FIELDS: Mapping[str, str] = {
    **dict.fromkeys(
        ("uri", "bucket", "key", "etag", "format", "kind", "tags", "sources", "run_id", "caption_hash"), "keyword"
    ),
    **dict.fromkeys(("size", "width", "height"), "number"),
    **dict.fromkeys(("last_modified", "indexed_at"), "date"),
    **dict.fromkeys(("has_image", "has_caption"), "flag"),
    "caption": "text",
}
_META = re.compile(r"meta(\.[A-Za-z0-9_-]+){1,8}")
_OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "text")
_RANGE = ("gt", "gte", "lt", "lte")
_ALLOWED = {
    "keyword": ("eq", "ne", "in"),
    "number": ("eq", "ne", "in", *_RANGE),
    "date": ("eq", "ne", *_RANGE),
    "flag": ("eq", "ne"),
    "text": ("eq", "ne", "text"),
    "any": _OPERATORS,  # a field of the captions file: what it holds is the user's affair
}


def parse_filter(expression: Mapping[str, Any] | None) -> models.Filter | None:
    """Qdrant's filter for `expression`; None for None and {}.

    Raises `FilterError` naming the offending field, operator or value and what would be understood.
    """
    if expression is None or expression == {}:
        return None
    return _Parser().parse(expression, 1)


class _Parser:
    def __init__(self) -> None:
        self._conditions = 0

    def parse(self, expression: object, depth: int) -> models.Filter:
        if not isinstance(expression, Mapping) or not expression:
            raise FilterError(
                f'A filter is an object like {{"width": {{"gte": 1024}}}} or {{"and": [...]}}, not {_show(expression)}.'
            )
        if depth > MAX_DEPTH:
            raise FilterError(f"The filter is nested more than {MAX_DEPTH} levels deep.")
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
        kind = _kind(name)
        if not isinstance(operations, Mapping) or not operations:
            raise FilterError(f'Filter on {name!r}: expected an object like {{"eq": value}}, not {_show(operations)}.')
        for operator in operations:
            if operator not in _ALLOWED[kind]:
                known = ", ".join(_ALLOWED[kind])
                raise FilterError(f"Filter on {name!r}: no operator {operator!r} for this field; it takes {known}.")
        self._conditions += len(operations)
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"The filter has more than {MAX_CONDITIONS} conditions.")
        return [_condition(str(name), kind, operator, value) for operator, value in operations.items()]


def _kind(name: object) -> str:
    if isinstance(name, str):
        if name in FIELDS:
            return FIELDS[name]
        if _META.fullmatch(name):
            return "any"
    raise FilterError(
        f"No field {_show(name)} to filter by; there are {', '.join(sorted(FIELDS))}, and meta.NAME for what the "
        "captions file gives (letters, digits, _ and -)."
    )


def _condition(name: str, kind: str, operator: str, value: object) -> Any:
    if operator == "ne":
        return models.Filter(must_not=[_condition(name, kind, "eq", value)])
    if operator == "in":
        if not isinstance(value, list) or not value or len(value) > MAX_VALUES:
            raise FilterError(f"Filter on {name!r}: 'in' takes a list of 1 to {MAX_VALUES} values, not {_show(value)}.")
        return _any_of(name, kind, value)
    if operator == "text":
        if not isinstance(value, str) or not value.strip():
            raise FilterError(f"Filter on {name!r}: 'text' takes words, not {_show(value)}.")
        return models.FieldCondition(key=name, match=models.MatchText(text=value))
    if operator == "eq":
        return _equal(name, kind, value)
    return _range(name, kind, **{operator: value})


def _equal(name: str, kind: str, value: object) -> Any:
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=name))
    if kind == "date":
        return _range(name, kind, gte=value, lte=value)
    if kind == "flag" and not isinstance(value, bool):
        raise FilterError(f"Filter on {name!r}: expected true or false, not {_show(value)}.")
    if kind in ("keyword", "text") and not isinstance(value, str):
        raise FilterError(f"Filter on {name!r}: expected a string, not {_show(value)}.")
    if kind == "number" or (isinstance(value, int | float) and not isinstance(value, bool)):
        value = _number(name, value)
    if isinstance(value, float):  # Qdrant matches no floating-point number, but an interval of one
        return _range(name, "number", gte=value, lte=value)
    if not isinstance(value, str | bool | int):
        raise FilterError(f"Filter on {name!r}: expected a string, a number, true, false or null, not {_show(value)}.")
    return models.FieldCondition(key=name, match=models.MatchValue(value=value))


def _any_of(name: str, kind: str, values: list[Any]) -> Any:
    each_equal = [_equal(name, kind, value) for value in values]
    # Qdrant's own "any" takes only strings or only integers.
    if all(type(value) is str for value in values) or all(type(value) is int for value in values):
        return models.FieldCondition(key=name, match=models.MatchAny(any=values))
    return models.Filter(should=each_equal)


def _range(name: str, kind: str, **bounds: object) -> Any:
    convert: Callable[[str, object], Any] = _date if kind == "date" or _dated(kind, bounds) else _number
    limits = {operator: convert(name, value) for operator, value in bounds.items()}
    made = models.Range(**limits) if convert is _number else models.DatetimeRange(**limits)
    return models.FieldCondition(key=name, range=made)


def _dated(kind: str, bounds: Mapping[str, object]) -> bool:
    return kind == "any" and all(isinstance(value, str) for value in bounds.values())


def _number(name: str, value: object) -> int | float:
    # bool is an int in Python and none in JSON; 1e999 parses as infinity, which no JSON can carry on.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 2**63 - 1:
        raise FilterError(f"Filter on {name!r}: expected a number, not {_show(value)}.")
    return value


def _date(name: str, value: object) -> datetime:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError as error:
        raise FilterError(
            f'Filter on {name!r}: expected a date as in "2024-05-31" or "2024-05-31T12:00:00Z", not {_show(value)}.'
        ) from error


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
