"""Changes of points: JSON of the REST interface to operations of the engine."""

from collections.abc import Iterator, Mapping
from typing import Any

import qdrant_edge

from viewfinder.edge.conditions import parse_filter
from viewfinder.edge.refusal import Refusal

_MODES = {
    "upsert": qdrant_edge.UpdateMode.Upsert,
    "insert_only": qdrant_edge.UpdateMode.InsertOnly,
    "update_only": qdrant_edge.UpdateMode.UpdateOnly,
}


def upsert(body: Mapping[str, Any], sizes: Mapping[str, int]) -> qdrant_edge.UpdateOperation:
    """Return the operation that writes whole points, given as columns (`batch`) or one by one (`points`).

    Raises `Refusal` for vectors of other names or sizes than `sizes` has. The engine refuses them too, but only when
    they are in its log, from which a killed process would read them again.
    """
    given = _of_columns(body["batch"]) if "batch" in body else _of_rows(body["points"])
    points = [_checked(id_, vectors, payload, sizes) for id_, vectors, payload in given]
    mode = body.get("update_mode")
    return qdrant_edge.UpdateOperation.upsert_points(
        points, parse_filter(body.get("update_filter")), None if mode is None else _MODES[mode]
    )


def delete(body: Mapping[str, Any]) -> qdrant_edge.UpdateOperation:
    """Return the operation that deletes points by id or by filter."""
    if (condition := parse_filter(body.get("filter"))) is not None:
        return qdrant_edge.UpdateOperation.delete_points_by_filter(condition)
    return qdrant_edge.UpdateOperation.delete_points(body["points"])


def set_payload(body: Mapping[str, Any]) -> qdrant_edge.UpdateOperation:
    """Return the operation that replaces fields of payloads, by id or by filter."""
    payload, key = body["payload"], body.get("key")
    if (condition := parse_filter(body.get("filter"))) is not None:
        return qdrant_edge.UpdateOperation.set_payload_by_filter(condition, payload, key)
    return qdrant_edge.UpdateOperation.set_payload(body["points"], payload, key)


def points_in(body: Mapping[str, Any]) -> int:
    """Return the number of points that an update names, in its filter too; 1 for one that names none."""
    if "batch" in body:
        return len(body["batch"]["ids"])
    return len(body["points"]) if "points" in body else max(1, _named(body.get("filter")))


def _named(node: Any) -> int:
    """Return the number of ids in a filter."""
    if isinstance(node, list):
        return sum(map(_named, node))
    if not isinstance(node, dict):
        return 0
    return sum(len(each) if name == "has_id" else _named(each) for name, each in node.items())


def _checked(id_: Any, vectors: Any, payload: Any, sizes: Mapping[str, int]) -> qdrant_edge.Point:
    for name, vector in ({"": vectors} if isinstance(vectors, list) else vectors).items():
        if name not in sizes:
            raise Refusal(400, f"Wrong input: Not existing vector name error: {name}")
        if len(vector) != sizes[name]:
            raise Refusal(400, f"Wrong input: Vector dimension error: expected dim: {sizes[name]}, got {len(vector)}")
    return qdrant_edge.Point(id_, vectors, payload)


def _of_columns(batch: Mapping[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    payloads = batch.get("payloads") or [None] * len(batch["ids"])
    vectors = batch.get("vectors") or {}
    columns = {"": vectors} if isinstance(vectors, list) else vectors
    for row, (point, payload) in enumerate(zip(batch["ids"], payloads, strict=True)):
        yield point, {name: column[row] for name, column in columns.items()}, payload


def _of_rows(points: Any) -> Iterator[tuple[Any, Any, Any]]:
    for each in points:
        yield each["id"], each.get("vector") or {}, each.get("payload")
