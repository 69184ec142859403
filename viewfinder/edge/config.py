"""Configurations of collections and of payload indexes: JSON of the REST interface to that of the engine."""

from collections.abc import Mapping
from typing import Any

import qdrant_edge

from viewfinder.edge.refusal import Refusal

_DISTANCES = {each: getattr(qdrant_edge.Distance, each) for each in ("Cosine", "Dot", "Euclid", "Manhattan")}
_DATATYPES = {
    "float32": qdrant_edge.VectorStorageDatatype.Float32,
    "float16": qdrant_edge.VectorStorageDatatype.Float16,
}
_KINDS = {
    "keyword": qdrant_edge.KeywordIndexParams,
    "integer": qdrant_edge.IntegerIndexParams,
    "float": qdrant_edge.FloatIndexParams,
    "bool": qdrant_edge.BoolIndexParams,
    "datetime": qdrant_edge.DatetimeIndexParams,
    "uuid": qdrant_edge.UuidIndexParams,
    "text": qdrant_edge.TextIndexParams,
}
_BITS = {
    "none": qdrant_edge.TurboQuantBitSize.Bits8,
    "scalar": qdrant_edge.TurboQuantBitSize.Bits8,
    "turbo": qdrant_edge.TurboQuantBitSize.Bits4,
}
# With more, each call waits until threads have been woken, which takes a millisecond on a busy machine.
SEARCH_THREADS = 1


def shard_config(
    config: Mapping[str, Any], *, durable: bool, threshold_kb: int | None = None
) -> qdrant_edge.EdgeConfig:
    """Return the engine's configuration of a collection; without `durable` it has no write-ahead log.

    Graphs are built of segments with more than `threshold_kb` kilobytes of vectors.
    """
    vectors = {name: _vector_params(params) for name, params in _named_vectors(config).items()}
    # The engine needs one vector; points need none.
    none = {} if vectors else {"none": qdrant_edge.EdgeSparseVectorParams()}
    optimizers = None if threshold_kb is None else qdrant_edge.EdgeOptimizersConfig(indexing_threshold=threshold_kb)
    return qdrant_edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors=none,
        optimizers=optimizers,
        hnsw_config=qdrant_edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
        max_search_threads=SEARCH_THREADS,
        wal_enabled=durable,
    )


def vector_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of dimensions of each vector of a collection."""
    return {name: params["size"] for name, params in _named_vectors(config).items()}


def field_index(field: str, schema: Any) -> qdrant_edge.UpdateOperation:
    """Return the operation that creates a payload index, given as its kind or as an object with parameters.

    It is made in mapped files, whatever `on_disk` says. To read all indexes of a million points into memory takes 13 s
    at each start, and 1.2 GB.
    """
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind not in _KINDS:
        raise Refusal(400, f"Wrong input: unknown kind of index {kind!r}")
    scoring = {} if isinstance(schema, str) or not schema.get("scoring") else {"scoring": True}
    return qdrant_edge.UpdateOperation.create_field_index(field, _KINDS[kind](on_disk=True, **scoring))


def _named_vectors(config: Mapping[str, Any]) -> Mapping[str, Any]:
    given = config.get("vectors") or {}
    return {"": given} if "size" in given else given  # one vector may have no name


def _vector_params(params: Mapping[str, Any]) -> qdrant_edge.EdgeVectorParams:
    return qdrant_edge.EdgeVectorParams(
        params["size"],
        _DISTANCES[params["distance"]],
        on_disk=params.get("on_disk"),
        datatype=_DATATYPES[params.get("datatype") or "float32"],
        quantization_config=_quantization(params.get("quantization_config")),
    )


def _quantization(given: Mapping[str, Any] | None) -> qdrant_edge.TurboQuantQuantizationConfig:
    """Return TurboQuant with 4 bits if it is asked for; with 8 instead of int8, and instead of none.

    It is the one kind that the engine also has for points without a graph, of which a search compares all: in a third
    of the time that float32 takes. The originals rank what it finds.
    """
    kind = next(iter(given)) if given else "none"
    if kind not in _BITS:
        raise Refusal(400, f"Wrong input: unknown quantization {kind!r}")
    return qdrant_edge.TurboQuantQuantizationConfig(bits=_BITS[kind])  # in mapped files, whatever `always_ram` says
