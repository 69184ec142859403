"""Behaviour of a Qdrant server that the embedded engine lacks: refusals, states, numbers that come back changed."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from viewfinder.store.collections import BM25_VERSION

_COLLECTION = re.compile(r"/collections/([^/]+)(?:/(.*))?")
_CONDITIONS = ("match", "range", "values_count", "geo_bounding_box", "geo_radius", "geo_polygon")
# Values of users, which hold no conditions.
_DATA = frozenset({"payload", "payloads", "vector", "vectors", "metadata"})
# Kinds of indexes that support ranges and orders.
_SORTABLE_TYPES = ("integer", "float", "datetime")
_WRITES = re.compile(r"points(/delete|/payload(/delete)?|/vectors(/delete)?|/batch)?")


class Rules:
    """The rules of one server. `strict` refuses filters on fields without an index, as Qdrant Cloud does by default.

    Collections that existed before are not checked, because their indexes are unknown.
    """

    def __init__(self, version: tuple[int, int], *, strict: bool) -> None:
        self.version = version
        self._strict = strict
        self._indexes: dict[str, dict[str, Any]] = {}
        self._optimizers: dict[str, dict[str, Any]] = {}
        self._written_since_start: set[str] | None = None
        self._stays_grey = False

    def restart(self, *, stays_grey: bool = False) -> None:
        """Make every collection grey until its next write, as after a restart of the server, or for ever."""
        self._written_since_start = set()
        self._stays_grey = stays_grey

    def refusal(self, method: str, path: str, body: Any) -> str | None:
        """Return the text of status 400 for a request that a server would refuse."""
        name, operation = _target(path)
        if self.version < BM25_VERSION and any("text" in query for query in _query_parts(body)):
            return "Format error in JSON body: data did not match any variant of untagged enum QueryInterface"
        indexes = self._indexes.get(name)
        if indexes is None:
            return None
        if unranked := [field for field in _ranked_fields(body) if not _has_scoring(indexes.get(field))]:
            return f"Bad request: Text query needs a text index with `scoring` on `{unranked[0]}`"
        if operation == "facet" and body["key"] not in indexes:
            return f"Bad request: No appropriate index for faceting: `{body['key']}`. Please create one to facet on it."
        if unsorted := [
            field for field in _ordering_fields(body) if _kind_of(indexes.get(field)) not in _SORTABLE_TYPES
        ]:
            return (
                f"Bad request: No range index for `order_by` key: `{unsorted[0]}`. Please create one to use `order_by`."
            )
        if self._strict and (missing := [key for key in _filtered_fields(body) if key not in indexes]):
            return (
                f'Bad request: Index required but not found for "{missing[0]}". '
                "Help: Create an index for this key or use a different filter."
            )
        return None

    def note(self, method: str, path: str, body: Any) -> None:
        """Note a request that was carried out."""
        name, operation = _target(path)
        if operation == "" and method == "PUT":
            self._indexes[name] = {}
            self._optimizers[name] = dict(body.get("optimizers_config") or {})
        elif operation == "" and method == "PATCH":
            self._optimizers.setdefault(name, {}).update(body.get("optimizers_config") or {})
        elif operation == "" and method == "DELETE":
            self._indexes.pop(name, None)
            self._optimizers.pop(name, None)
        elif operation == "index" and name in self._indexes:
            self._indexes[name][body["field_name"]] = body.get("field_schema")
        starts_optimizers = operation == "" and method == "PATCH" and body.get("optimizers_config") is not None
        writes = starts_optimizers or is_write(method, path)
        if self._written_since_start is not None and writes and not self._stays_grey:
            self._written_since_start.add(name)

    def described(self, name: str, info: dict[str, Any], updates: int) -> dict[str, Any]:
        """Return the description of a collection as a server gives it, with `updates` in its queue."""
        grey = self._written_since_start is not None and name not in self._written_since_start
        if (metadata := info["config"].get("metadata")) is not None:
            info["config"]["metadata"] = _one_bit_off(metadata)
        info["config"]["optimizer_config"] |= self._optimizers.get(name, {})
        schema = {field: _described_index(index) for field, index in self._indexes.get(name, {}).items()}
        return info | {
            "status": "grey" if grey else "green",
            "update_queue": {"length": updates},
            "payload_schema": schema,
        }


def select_mmr(body: Any, result: Any) -> Any:
    """Return the answer of a query as a server gives it: with MMR it selects `limit` points and skips `offset` of them.

    The embedded engine selects as many as are left.
    """
    searches = body.get("searches") if isinstance(body, dict) else None
    if searches is not None:
        return [select_mmr(each, answer) for each, answer in zip(searches, result, strict=True)]
    query = body.get("query") if isinstance(body, dict) else None
    if isinstance(query, dict) and query.get("mmr") is not None:
        kept = max(0, (body.get("limit") or 10) - (body.get("offset") or 0))
        return {**result, "points": result["points"][:kept]}
    return result


def _described_index(index: Any) -> dict[str, Any]:
    """Return the description of an index, given as its kind or as an object with parameters."""
    if isinstance(index, dict):
        return {"data_type": index["type"], "params": index, "points": 0}
    return {"data_type": index, "points": 0}


def is_write(method: str, path: str) -> bool:
    """Return True for a request that changes points."""
    operation = _target(path)[1]
    return _WRITES.fullmatch(operation) is not None and (method, operation) != ("POST", "points")


def _target(path: str) -> tuple[str, str]:
    match = _COLLECTION.fullmatch(path)
    return (match[1], match[2] or "") if match else ("", "-")


def _query_parts(body: Any) -> Iterator[Mapping[str, Any]]:
    for request in [body, *(body.get("searches") or ())] if isinstance(body, dict) else ():
        if isinstance(request.get("query"), dict):
            yield request["query"]


def _ranked_fields(body: Any) -> Iterator[str]:
    """Yield the fields whose texts the queries in a request rank."""
    for request in [body, *(body.get("searches") or ())] if isinstance(body, dict) else ():
        if isinstance(request.get("query"), dict) and "text" in request["query"]:
            yield str(request.get("using"))


def _ordering_fields(body: Any) -> Iterator[str]:
    """Yield the fields whose values give the order of a request."""
    order = body.get("order_by") if isinstance(body, dict) else None
    if order is not None:
        yield order if isinstance(order, str) else order["key"]


def _kind_of(index: Any) -> Any:
    return index.get("type") if isinstance(index, dict) else index


def _has_scoring(index: Any) -> bool:
    return isinstance(index, dict) and bool(index.get("scoring"))


def _filtered_fields(body: Any) -> Iterator[str]:
    """Yield the fields that the conditions in a request name."""
    if isinstance(body, dict):
        if isinstance(body.get("key"), str) and any(body.get(kind) is not None for kind in _CONDITIONS):
            yield body["key"]
        for name, value in body.items():
            if name not in _DATA:
                yield from _filtered_fields(value)
    elif isinstance(body, list):
        for each in body:
            yield from _filtered_fields(each)


def _one_bit_off(value: Any) -> Any:
    """Return JSON as Qdrant returns metadata: it parses floats without correct rounding."""
    if isinstance(value, dict):
        return {name: _one_bit_off(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_one_bit_off(each) for each in value]
    if isinstance(value, float) and not value.is_integer():
        return math.nextafter(value, math.inf)
    return value
