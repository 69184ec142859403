"""Reads: JSON of the REST interface to requests of the engine, and the points found back to JSON."""

from collections.abc import Mapping
from typing import Any

import qdrant_edge

from viewfinder.edge.conditions import parse_filter
from viewfinder.edge.refusal import Refusal

DEFAULT_LIMIT = 10


def query_request(body: Mapping[str, Any]) -> qdrant_edge.QueryRequest:
    """Return the request of one search."""
    if body.get("prefetch"):
        raise Refusal(400, "Wrong input: the embedded engine takes no prefetches")
    limit = body.get("limit")
    return qdrant_edge.QueryRequest(
        limit=DEFAULT_LIMIT if limit is None else limit,
        offset=body.get("offset") or 0,
        query=_query(body.get("query"), body.get("using")),
        filter=parse_filter(body.get("filter")),
        score_threshold=body.get("score_threshold"),
        params=_params(body.get("params")),
        with_payload=payload_selector(body.get("with_payload"), default=False),
        with_vector=body.get("with_vector") or False,
    )


def scroll_request(body: Mapping[str, Any]) -> qdrant_edge.ScrollRequest:
    """Return the request of one page of points."""
    return qdrant_edge.ScrollRequest(
        offset=body.get("offset"),
        limit=body.get("limit") or DEFAULT_LIMIT,
        filter=parse_filter(body.get("filter")),
        with_payload=payload_selector(body.get("with_payload"), default=True),
        with_vector=body.get("with_vector") or False,
        order_by=_order(body.get("order_by")),
    )


def payload_selector(given: Any, *, default: bool) -> Any:
    """Return the selector of payload fields: all, none, those named, or all but those named."""
    if given is None:
        return default
    if isinstance(given, Mapping):
        if "include" in given:
            return qdrant_edge.PayloadSelector.Include(given["include"])
        return qdrant_edge.PayloadSelector.Exclude(given["exclude"])
    return given


def point_json(point: Any) -> dict[str, Any]:
    """Return a point or a hit as JSON."""
    found = {"id": point_id(point.id), "payload": point.payload, "vector": point.vector}
    if isinstance(point, qdrant_edge.ScoredPoint):
        found |= {"score": point.score, "version": point.version}
    if point.order_value is not None:
        found["order_value"] = point.order_value
    return {name: value for name, value in found.items() if value is not None}


def point_id(given: Any) -> Any:
    """Return an id as JSON: an integer, or the text of a UUID."""
    return given if isinstance(given, int) else str(given)


def _query(given: Any, using: str | None) -> Any:
    if given is None:
        return None
    if isinstance(given, list):
        return qdrant_edge.Query.Nearest(given, using=using)
    if "nearest" in given:
        mmr = given.get("mmr")
        if mmr is None:
            return qdrant_edge.Query.Nearest(given["nearest"], using=using)
        # Its `lambda` is the weight of relevance, the `diversity` of REST that of the rest.
        return qdrant_edge.Mmr(given["nearest"], 1 - mmr["diversity"], mmr["candidates_limit"], using=using)
    if "text" in given:
        return qdrant_edge.TextQuery(using or "", given["text"])
    if "sample" in given:
        return qdrant_edge.Sample.Random
    raise Refusal(400, f"Wrong input: unknown query {sorted(given)}")


def _params(given: Mapping[str, Any] | None) -> qdrant_edge.SearchParams | None:
    if given is None:
        return None
    quantization = given.get("quantization")
    return qdrant_edge.SearchParams(
        hnsw_ef=given.get("hnsw_ef"),
        exact=bool(given.get("exact")),
        quantization=None if quantization is None else qdrant_edge.QuantizationSearchParams(**quantization),
    )


def _order(given: Any) -> qdrant_edge.OrderBy | None:
    if given is None:
        return None
    if isinstance(given, str):
        return qdrant_edge.OrderBy(given)
    direction = qdrant_edge.Direction.Desc if given.get("direction") == "desc" else qdrant_edge.Direction.Asc
    return qdrant_edge.OrderBy(given["key"], direction, given.get("start_from"))
