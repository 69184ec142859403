"""Filters: JSON of the REST interface to conditions of the engine."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import qdrant_edge

from viewfinder.edge.refusal import Refusal


def parse_filter(body: Mapping[str, Any] | None) -> qdrant_edge.Filter | None:
    """Return the filter in `body`; None for None. Raise `Refusal` for a condition that is unknown here."""
    if body is None:
        return None
    clauses: dict[str, Any] = {
        name: _conditions(body[name]) for name in ("must", "should", "must_not") if body.get(name) is not None
    }
    if unknown := body.keys() - {"must", "should", "must_not"}:
        raise Refusal(400, f"Wrong input: unknown clauses of a filter: {sorted(unknown)}")
    return qdrant_edge.Filter(**clauses)


def _conditions(given: Any) -> list[Any]:
    return [_condition(each) for each in (given if isinstance(given, list) else [given])]


def _condition(body: Mapping[str, Any]) -> Any:
    if "key" in body:
        return _field(body)
    for name, parse in _CONDITIONS.items():
        if name in body:
            return parse(body[name])
    return parse_filter(body)


def _field(body: Mapping[str, Any]) -> qdrant_edge.FieldCondition:
    if body.get("match") is not None:
        return qdrant_edge.FieldCondition(body["key"], match=_match(body["match"]))
    if body.get("range") is not None:
        return qdrant_edge.FieldCondition(body["key"], range=_range(body["range"]))
    if body.get("values_count") is not None:
        return qdrant_edge.FieldCondition(body["key"], values_count=qdrant_edge.ValuesCount(**body["values_count"]))
    raise Refusal(400, f"Wrong input: a condition on {body['key']!r} that is neither a match nor a range")


def _match(body: Mapping[str, Any]) -> Any:
    if "value" in body:
        value = body["value"]
        return qdrant_edge.MatchValue(_TRUE if value is True else _FALSE if value is False else value)
    for name, kind in _MATCHES.items():
        if name in body:
            return kind(body[name])
    raise Refusal(400, f"Wrong input: unknown match {sorted(body)}")


def _range(body: Mapping[str, Any]) -> Any:
    bounds = {name: bound for name, bound in body.items() if bound is not None}
    is_date = any(isinstance(bound, str) for bound in bounds.values())
    return qdrant_edge.RangeDateTime(**bounds) if is_date else qdrant_edge.RangeFloat(**bounds)


def _ids(given: Iterable[Any]) -> qdrant_edge.HasIdCondition:
    return qdrant_edge.HasIdCondition(set(given))


def _boolean(value: bool) -> Any:
    """Return `value` as the engine recognises it: it reads Python's True as 1, and knows NumPy's by its name.

    Importing NumPy would take five times as long as the rest of the process needs to start, and 25 MB.
    """
    kind = type("bool", (), {"__module__": "numpy", "__bool__": lambda _: value})
    return kind()


_TRUE, _FALSE = _boolean(True), _boolean(False)

_CONDITIONS: Mapping[str, Callable[[Any], Any]] = {
    "is_empty": lambda body: qdrant_edge.IsEmptyCondition(body["key"]),
    "is_null": lambda body: qdrant_edge.IsNullCondition(body["key"]),
    "has_id": _ids,
    "has_vector": qdrant_edge.HasVectorCondition,
}
_MATCHES: Mapping[str, Callable[[Any], Any]] = {
    "any": qdrant_edge.MatchAny,
    "except": qdrant_edge.MatchExcept,
    "text": qdrant_edge.MatchText,
    "text_any": qdrant_edge.MatchTextAny,
    "phrase": qdrant_edge.MatchPhrase,
}
