"""The operations of Qdrant's REST interface that viewfinder uses, executed by local mode."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, TypeAdapter
from qdrant_client import models
from qdrant_client.local.qdrant_local import QdrantLocal


def find_operation(method: str, path: str) -> Callable[[QdrantLocal, Any], Any] | None:
    """Return the function of an operation; called with the store and the body, it returns the "result"."""
    for known, pattern, operation in _OPERATIONS:
        match = re.fullmatch(pattern, path)
        if match and known == method:
            names = [unquote(name) for name in match.groups()]
            return lambda local, body: _jsonable(operation(local, body, *names))
    return None


_C = r"/collections/([^/]+)"


def _parse(kind: Any, body: Any) -> Any:
    return TypeAdapter(kind).validate_python(body)


def _selector(body: Mapping[str, Any]) -> Any:
    return _parse(models.Filter, body["filter"]) if body.get("filter") else list(body["points"])


def _create(local: QdrantLocal, body: Any, name: str) -> bool:
    made = _parse(models.CreateCollection, body)
    return local.create_collection(name, made.vectors, made.sparse_vectors, metadata=made.metadata)


def _update(local: QdrantLocal, body: Any, name: str) -> bool:
    return local.update_collection(name, metadata=_parse(models.UpdateCollection, body).metadata)


def _aliases(local: QdrantLocal, body: Any) -> bool:
    return local.update_collection_aliases(_parse(models.ChangeAliasesOperation, body).actions)


def _index(local: QdrantLocal, body: Any, name: str) -> Any:
    made = _parse(models.CreateFieldIndex, body)
    # The only kind that local mode uses; it warns about all others.
    if isinstance(made.field_schema, models.TextIndexParams) and made.field_schema.scoring:
        return local.create_payload_index(name, made.field_name, made.field_schema)
    return {"operation_id": 0, "status": "completed"}


def _upsert(local: QdrantLocal, body: Any, name: str) -> Any:
    if "batch" in body:
        made = _parse(models.PointsBatch, body)
        points: Any = made.batch
    else:
        made = _parse(models.PointsList, body)
        points = made.points
    return local.upsert(name, points, update_filter=made.update_filter, update_mode=made.update_mode)


def _retrieve(local: QdrantLocal, body: Any, name: str) -> Any:
    made = _parse(models.PointRequest, body)
    payload = True if made.with_payload is None else made.with_payload
    return local.retrieve(name, made.ids, with_payload=payload, with_vectors=made.with_vector or False)


def _get_point(local: QdrantLocal, _: Any, name: str, point: str) -> Any:
    found = local.retrieve(name, [int(point) if point.isdecimal() else point], with_vectors=True)
    if not found:
        raise KeyError(point)
    return found[0]


def _delete(local: QdrantLocal, body: Any, name: str) -> Any:
    return local.delete(name, _selector(body))


def _set_payload(local: QdrantLocal, body: Any, name: str) -> Any:
    return local.set_payload(name, body["payload"], _selector(body), key=body.get("key"))


def _delete_payload(local: QdrantLocal, body: Any, name: str) -> Any:
    return local.delete_payload(name, body["keys"], _selector(body))


def _update_vectors(local: QdrantLocal, body: Any, name: str) -> Any:
    made = _parse(models.UpdateVectors, body)
    return local.update_vectors(name, made.points, update_filter=made.update_filter)


def _delete_vectors(local: QdrantLocal, body: Any, name: str) -> Any:
    return local.delete_vectors(name, body["vector"], _selector(body))


def _batch(local: QdrantLocal, body: Any, name: str) -> Any:
    return local.batch_update_points(name, _parse(models.UpdateOperations, body).operations)


def _scroll(local: QdrantLocal, body: Any, name: str) -> Any:
    made = _parse(models.ScrollRequest, body)
    points, following = local.scroll(
        name,
        scroll_filter=made.filter,
        limit=made.limit or 10,
        order_by=made.order_by,
        offset=made.offset,
        with_payload=True if made.with_payload is None else made.with_payload,
        with_vectors=made.with_vector or False,
    )
    return {"points": points, "next_page_offset": following}


def _count(local: QdrantLocal, body: Any, name: str) -> Any:
    return local.count(name, count_filter=_parse(models.CountRequest, body).filter)


def _facet(local: QdrantLocal, body: Any, name: str) -> Any:
    made = _parse(models.FacetRequest, body)
    return local.facet(name, made.key, facet_filter=made.filter, limit=made.limit or 10)


def _query_points(local: QdrantLocal, body: Any, name: str) -> Any:
    return _query_all(local, name, [_parse(models.QueryRequest, body)])[0]


def _query_batch(local: QdrantLocal, body: Any, name: str) -> Any:
    return _query_all(local, name, _parse(models.QueryRequestBatch, body).searches)


def _query_all(local: QdrantLocal, name: str, requests: Sequence[models.QueryRequest]) -> list[models.QueryResponse]:
    # Local mode is always exact, and warns about search parameters.
    exact = [request.model_copy(update={"params": None}) for request in requests]
    # With MMR a server selects `limit` points and skips `offset` of them; local mode selects more.
    diverse = [isinstance(each.query, models.NearestQuery) and each.query.mmr is not None for each in exact]
    sent = [each.model_copy(update={"offset": 0}) if mmr else each for each, mmr in zip(exact, diverse, strict=True)]
    answers = local.query_batch_points(name, sent)
    return [
        answer.model_copy(update={"points": answer.points[each.offset or 0 :]}) if mmr else answer
        for each, mmr, answer in zip(exact, diverse, answers, strict=True)
    ]


def _query_groups(local: QdrantLocal, body: Any, name: str) -> Any:
    made = _parse(models.QueryGroupsRequest, body)
    return local.query_points_groups(
        name,
        made.group_by,
        query=made.query,
        using=made.using,
        prefetch=made.prefetch,
        query_filter=made.filter,
        limit=made.limit or 10,
        group_size=made.group_size or 3,
        with_payload=True if made.with_payload is None else made.with_payload,
        score_threshold=made.score_threshold,
    )


_IDLE = {
    "running": [],
    "summary": {"queued_optimizations": 0, "queued_segments": 0, "queued_points": 0, "idle_segments": 1},
}

_OPERATIONS: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "/collections", lambda local, _: local.get_collections()),
    ("GET", "/aliases", lambda local, _: local.get_aliases()),
    ("POST", "/collections/aliases", _aliases),
    ("GET", _C, lambda local, _, name: local.get_collection(name)),
    ("PUT", _C, _create),
    ("PATCH", _C, _update),
    ("DELETE", _C, lambda local, _, name: local.delete_collection(name)),
    ("GET", _C + "/exists", lambda local, _, name: {"exists": local.collection_exists(name)}),
    ("GET", _C + "/aliases", lambda local, _, name: local.get_collection_aliases(name)),
    ("GET", _C + "/optimizations", lambda local, _, name: _IDLE),
    ("PUT", _C + "/index", _index),
    ("PUT", _C + "/points", _upsert),
    ("POST", _C + "/points", _retrieve),
    ("POST", _C + "/points/delete", _delete),
    ("POST", _C + "/points/payload", _set_payload),
    ("POST", _C + "/points/payload/delete", _delete_payload),
    ("PUT", _C + "/points/vectors", _update_vectors),
    ("POST", _C + "/points/vectors/delete", _delete_vectors),
    ("POST", _C + "/points/batch", _batch),
    ("POST", _C + "/points/scroll", _scroll),
    ("POST", _C + "/points/count", _count),
    ("POST", _C + "/points/query", _query_points),
    ("POST", _C + "/points/query/batch", _query_batch),
    ("POST", _C + "/points/query/groups", _query_groups),
    ("GET", _C + "/points/([^/]+)", _get_point),
    ("POST", _C + "/facet", _facet),
]


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True, by_alias=True)
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    if isinstance(value, dict):
        return {name: _jsonable(each) for name, each in value.items()}
    return value
