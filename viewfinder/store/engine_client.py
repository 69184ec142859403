"""The methods of `QdrantClient` on the embedded engine: its models to the JSON of REST and back."""

import functools
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from pydantic import BaseModel
from qdrant_client import models
from qdrant_client.http.models import QueryResponse


class RequestAnswerer(Protocol):
    """An engine, of this program or of another one."""

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        """Return the "result" of a request; raise `Refusal`."""


class EngineClient:
    """Calls methods of `QdrantClient` by name on an engine; raises its `Refusal`s."""

    def __init__(self, engine: RequestAnswerer) -> None:
        self._engine = engine

    def call(self, method: str, **arguments: Any) -> Any:
        """Return the result of `QdrantClient.<method>(**arguments)`; raise `ValueError` for an unknown method."""
        known = _METHODS.get(method)
        if known is None:
            raise ValueError(f"The embedded store has no method {method!r}.")
        name = arguments.pop("collection_name", None)
        if name is None:
            return known(self._engine.answer, **arguments)
        return known(functools.partial(_of_collection, self._engine, name), **arguments)


Answer = Callable[..., Any]


def _of_collection(engine: RequestAnswerer, name: str, method: str, path: str = "", body: Any = None) -> Any:
    return engine.answer(method, f"/collections/{name}{path}", body)


def _info(answer: Answer) -> models.VersionInfo:
    return models.VersionInfo(**answer("GET", "/"))


def _get_collections(answer: Answer) -> models.CollectionsResponse:
    return models.CollectionsResponse(**answer("GET", "/collections"))


def _get_aliases(answer: Answer) -> models.CollectionsAliasesResponse:
    return models.CollectionsAliasesResponse(**answer("GET", "/aliases"))


def _update_aliases(answer: Answer, change_aliases_operations: Sequence[Any]) -> Any:
    return answer("POST", "/collections/aliases", {"actions": _json(change_aliases_operations)})


def _exists(answer: Answer) -> bool:
    return bool(answer("GET", "/exists")["exists"])


def _get_collection(answer: Answer) -> models.CollectionInfo:
    return models.CollectionInfo(**answer("GET"))


def _create_collection(answer: Answer, vectors_config: Any, **options: Any) -> Any:
    return answer("PUT", "", _body(vectors=vectors_config, **options))


def _update_collection(answer: Answer, **options: Any) -> Any:
    return answer("PATCH", "", _body(**options))


def _create_index(answer: Answer, field_name: str, field_schema: Any, wait: bool = True) -> Any:
    return answer("PUT", "/index", _body(field_name=field_name, field_schema=field_schema))


def _upsert(
    answer: Answer, points: Any, update_filter: Any = None, update_mode: Any = None, **_: Any
) -> models.UpdateResult:
    columns: dict[str, Any]
    if isinstance(points, models.Batch):  # its many numbers are JSON already
        columns = {"batch": {"ids": points.ids, "vectors": points.vectors, "payloads": points.payloads}}
    else:
        columns = {"points": [{"id": each.id, "vector": each.vector, "payload": each.payload} for each in points]}
    body = _body(update_filter=update_filter, update_mode=update_mode)
    return models.UpdateResult(**answer("PUT", "/points", body | columns))


def _delete(answer: Answer, points_selector: Any, **_: Any) -> models.UpdateResult:
    return models.UpdateResult(**answer("POST", "/points/delete", _selector(points_selector)))


def _set_payload(
    answer: Answer, payload: Mapping[str, Any], points: Any, key: str | None = None, **_: Any
) -> models.UpdateResult:
    body = {"payload": payload, "key": key, **_selector(points)}
    return models.UpdateResult(**answer("POST", "/points/payload", body))


def _retrieve(
    answer: Answer, ids: Sequence[Any], with_payload: Any = True, with_vectors: Any = False
) -> list[models.Record]:
    found = answer("POST", "/points", _body(ids=list(ids), with_payload=with_payload, with_vector=with_vectors))
    return [_record(each) for each in found]


def _scroll(
    answer: Answer, scroll_filter: Any = None, with_vectors: Any = False, **options: Any
) -> tuple[list[models.Record], Any]:
    page = answer("POST", "/points/scroll", _body(filter=scroll_filter, with_vector=with_vectors, **options))
    return [_record(each) for each in page["points"]], page["next_page_offset"]


def _count(answer: Answer, count_filter: Any = None, exact: bool = True) -> models.CountResult:
    return models.CountResult(**answer("POST", "/points/count", _body(filter=count_filter, exact=exact)))


def _facet(answer: Answer, key: str, facet_filter: Any = None, limit: int = 10) -> models.FacetResponse:
    return models.FacetResponse(**answer("POST", "/facet", _body(key=key, filter=facet_filter, limit=limit)))


def _query_points(
    answer: Answer,
    query_filter: Any = None,
    with_payload: Any = True,
    with_vectors: Any = False,
    search_params: Any = None,
    **options: Any,
) -> QueryResponse:
    body = _body(
        filter=query_filter, with_payload=with_payload, with_vector=with_vectors, params=search_params, **options
    )
    return _response(answer("POST", "/points/query", body))


def _query_batch(answer: Answer, requests: Sequence[models.QueryRequest]) -> list[QueryResponse]:
    found = answer("POST", "/points/query/batch", {"searches": _json(requests)})
    return [_response(each) for each in found]


def _query_groups(
    answer: Answer, query_filter: Any = None, with_payload: Any = True, search_params: Any = None, **options: Any
) -> models.GroupsResult:
    body = _body(filter=query_filter, with_payload=with_payload, params=search_params, **options)
    return models.GroupsResult(**answer("POST", "/points/query/groups", body))


_METHODS: Mapping[str, Callable[..., Any]] = {
    "info": _info,
    "get_collections": _get_collections,
    "get_aliases": _get_aliases,
    "update_collection_aliases": _update_aliases,
    "collection_exists": _exists,
    "get_collection": _get_collection,
    "create_collection": _create_collection,
    "update_collection": _update_collection,
    "delete_collection": lambda answer: answer("DELETE"),
    "create_payload_index": _create_index,
    "upsert": _upsert,
    "delete": _delete,
    "set_payload": _set_payload,
    "retrieve": _retrieve,
    "scroll": _scroll,
    "count": _count,
    "facet": _facet,
    "query_points": _query_points,
    "query_batch_points": _query_batch,
    "query_points_groups": _query_groups,
}


def _body(**fields: Any) -> dict[str, Any]:
    return {name: _json(value) for name, value in fields.items() if value is not None}


def _json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True, by_alias=True)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _json(each) for name, each in value.items()}
    return value


def _selector(points: Any) -> dict[str, Any]:
    """Return the body that selects points, by a filter or by their ids."""
    if isinstance(points, models.Filter):
        return {"filter": _json(points)}
    if isinstance(points, models.FilterSelector):
        return {"filter": _json(points.filter)}
    return {"points": list(points.points if isinstance(points, models.PointIdsList) else points)}


def _record(point: Mapping[str, Any]) -> models.Record:
    # Not validated: 200 points with vectors would take longer than to read them.
    return models.Record.model_construct(**{"payload": None, "vector": None, "order_value": None, **point})


def _response(answer: Mapping[str, Any]) -> QueryResponse:
    points = [
        models.ScoredPoint.model_construct(**{"payload": None, "vector": None, "order_value": None, **point})
        for point in answer["points"]
    ]
    return QueryResponse.model_construct(points=points)
