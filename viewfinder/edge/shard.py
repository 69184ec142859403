"""The points of one collection: a directory that this process has open."""

import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import qdrant_edge

from viewfinder.edge import updates
from viewfinder.edge.conditions import parse_filter
from viewfinder.edge.config import field_index, shard_config, vector_sizes
from viewfinder.edge.groups import query_groups
from viewfinder.edge.queries import DEFAULT_LIMIT, payload_selector, point_id, point_json, query_request, scroll_request
from viewfinder.edge.refusal import Refusal
from viewfinder.edge.templates import ShardPlace, create

# The lock of a killed process is held for a moment longer.
_LOAD_WAIT_S = 5.0
# Float32 vectors in kilobytes up to which a search compares the originals, in a few milliseconds.
_EXACT_KB = 20_000
# Points that a search of quantized vectors ranks by the originals, at least.
_CANDIDATES = 100


class Shard:
    """An open shard, for one thread. `answer` takes an operation such as "POST points/scroll" and its body."""

    def __init__(self, place: ShardPlace) -> None:
        self._place = place
        self._sizes = vector_sizes(place.config)
        self._is_small: bool | None = None  # None: unknown since the last update
        try:
            self._shard = _open(place)
        except OSError as error:
            raise Refusal(500, f"The collection in {place.directory} cannot be made: {error}") from error
        existing = self._shard.info().payload_schema
        for name, schema in place.indexes.items():
            if name not in existing:  # the process was killed before it made it
                self._shard.update(field_index(name, schema))

    def answer(self, operation: str, body: Any) -> Any:
        """Return the "result" of an operation; raise `Refusal`."""
        known = _OPERATIONS.get(operation)
        if known is None:
            raise Refusal(404, f"The embedded engine has no {operation}")
        try:
            return known(self, body)
        except Refusal:
            raise
        except Exception as error:  # the engine raises no other class
            raise Refusal(_status(error), str(error)) from error

    def close(self) -> None:
        """Write everything to disk."""
        self._shard.close()

    def retire(self) -> None:
        """Close the shard, which another one has replaced."""
        self.close()

    def _update(self, operation: Callable[[Any], qdrant_edge.UpdateOperation], body: Any) -> dict[str, Any]:
        # The engine writes to mapped files, and a full disk would kill the process.
        free = shutil.disk_usage(self._place.directory).free
        if free < self._place.min_free_bytes:
            raise Refusal(500, f"No space left on device: {free // 10**6:,} MB are free")
        self._is_small = None
        self._shard.update(operation(body))
        return {"operation_id": 0, "status": "completed"}

    def _flush(self, _: Any) -> None:
        """Write the log into the files."""
        self._shard.flush()

    def _upsert(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._update(lambda given: updates.upsert(given, self._sizes), body)

    def _create_index(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._update(lambda given: field_index(given["field_name"], given["field_schema"]), body)

    def _retrieve(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        selector = payload_selector(body.get("with_payload"), default=True)
        return [
            point_json(each) for each in self._shard.retrieve(body["ids"], selector, body.get("with_vector") or False)
        ]

    def _scroll(self, body: Mapping[str, Any]) -> dict[str, Any]:
        points, following = self._shard.scroll(scroll_request(body))
        return {
            "points": [point_json(each) for each in points],
            "next_page_offset": None if following is None else point_id(following),
        }

    def _count(self, body: Mapping[str, Any]) -> dict[str, int]:
        request = qdrant_edge.CountRequest(exact=body.get("exact", True), filter=parse_filter(body.get("filter")))
        return {"count": self._shard.count(request)}

    def _facet(self, body: Mapping[str, Any]) -> dict[str, Any]:
        request = qdrant_edge.FacetRequest(
            body["key"], body.get("limit") or DEFAULT_LIMIT, exact=True, filter=parse_filter(body.get("filter"))
        )
        return {"hits": [{"value": each.value, "count": each.count} for each in self._shard.facet(request).hits]}

    def _query(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"points": [point_json(each) for each in self._shard.query(query_request(self._search(body)))]}

    def _query_batch(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [self._query(each) for each in body["searches"]]

    def _query_groups(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"groups": query_groups(self._shard, body, self._search)}

    def _search(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the search with what it needs because all vectors are quantized here.

        Of few points it compares the originals, and is exact without a graph. Of many, those rank enough candidates
        that pages of near-equal images lose none.
        """
        if self._is_small is None:
            points = self._shard.info().points_count
            self._is_small = points * max(self._sizes.values(), default=0) * 4 <= _EXACT_KB * 1024
        params = body.get("params") or {}
        quantization = params.get("quantization") or {}
        if self._is_small:
            quantization = {"ignore": True}
        elif quantization.get("rescore"):
            hits = (body.get("limit") or DEFAULT_LIMIT) + (body.get("offset") or 0)
            oversampling = max(quantization.get("oversampling") or 1.0, _CANDIDATES / hits)
            quantization = {**quantization, "oversampling": oversampling}
        return {**body, "params": {**params, "quantization": quantization}} if quantization else body

    def _info(self, _: Any) -> dict[str, int]:
        info = self._shard.info()
        return {
            "points_count": info.points_count,
            "indexed_vectors_count": info.indexed_vectors_count,
            "segments_count": info.segments_count,
        }


_OPERATIONS: Mapping[str, Callable[[Shard, Any], Any]] = {
    "GET info": Shard._info,
    "POST flush": Shard._flush,
    "PUT index": Shard._create_index,
    "PUT points": Shard._upsert,
    "POST points/delete": lambda shard, body: shard._update(updates.delete, body),
    "POST points/payload": lambda shard, body: shard._update(updates.set_payload, body),
    "POST points": Shard._retrieve,
    "POST points/scroll": Shard._scroll,
    "POST points/count": Shard._count,
    "POST points/query": Shard._query,
    "POST points/query/batch": Shard._query_batch,
    "POST points/query/groups": Shard._query_groups,
    "POST facet": Shard._facet,
}


def _status(error: Exception) -> int:
    text = str(error).lower()
    if "no point with id" in text:
        return 404
    return 500 if "service" in text else 400


def build_graphs(place: ShardPlace, threshold_kb: int) -> None:
    """Build the graphs of a shard that no process has open. Vectors of fewer than `threshold_kb` kilobytes get none."""
    shard = _open(place, threshold_kb)
    try:
        shard.optimize()
    except Exception as error:
        raise Refusal(500, str(error)) from error
    finally:
        shard.close()


def _open(place: ShardPlace, threshold_kb: int | None = None) -> qdrant_edge.EdgeShard:
    if not place.directory.exists():
        create(place)
    config = shard_config(place.config, durable=place.durable, threshold_kb=threshold_kb)
    deadline = time.monotonic() + _LOAD_WAIT_S
    while True:
        try:
            # With the configuration: a directory without a segment has none of its own.
            return qdrant_edge.EdgeShard.load(str(place.directory), config)
        except Exception as error:
            if "lock" not in str(error).lower() or time.monotonic() >= deadline:
                raise Refusal(500, f"The collection in {place.directory} cannot be opened: {error}") from error
        time.sleep(0.02)
