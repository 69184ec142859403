"""The state of a replica: statistics, facets, models, health."""

import json
from dataclasses import fields, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field

from viewfinder.client.results import (
    ErrorResponse,
    Facets,
    FacetValue,
    IndexState,
    IndexStates,
    LiveModel,
    Model,
    Models,
    Stats,
)
from viewfinder.models.registry import REGISTRY, ModelSpec
from viewfinder.query.fields import IndexName
from viewfinder.query.validation import JsonBody
from viewfinder.service.generation.follower import NotReadyError
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.errors import ERROR_RESPONSES
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.http.keys import Asked, Seen, Visible
from viewfinder.service.http.routes.openai import LIVE_MODEL, index_of_model
from viewfinder.service.http.routes.search import MAX_JSON_PARAMETER, parse_filter_parameter
from viewfinder.service.indexes import Indexes, ServedIndex
from viewfinder.service.recent import RecentAnswers
from viewfinder.service.search_service import SearchService
from viewfinder.store import Collection
from viewfinder.store.conditions import KeyFilter

DEFAULT_FACETS, MAX_FACETS = 20, 100
# Each page that is opened asks for the statistics and several facets, which the store counts over all images.
KEEP_S = 3.0
_FILTER = "Count only images that match, as in a search."

FacetField = Annotated[
    str, Field(min_length=1, max_length=1000, description="A field of the payload.", examples=["tags", "format"])
]
_SearchedCollection = Annotated[
    str | None,
    Query(
        max_length=300,
        description="Physical name of a collection: `is_searched` is true if an index is searched in it.",
    ),
]
FacetLimit = Annotated[int, Field(ge=1, le=MAX_FACETS, description="Maximum number of values.")]


class FacetsBody(JsonBody):
    """The body of `POST /v1/facets`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"field": "tags", "filter": {"width": {"gte": 800}}}]})

    index: IndexName | None = None
    field: FacetField
    limit: FacetLimit = DEFAULT_FACETS
    filter: Annotated[dict[str, Any] | None, Field(description=_FILTER)] = None


def router(service: SearchService) -> APIRouter:
    """The status routes over one replica's service."""
    routes = APIRouter(tags=["status"])
    recent = RecentAnswers(KEEP_S)
    unavailable: dict[int | str, dict[str, Any]] = {503: ERROR_RESPONSES[503], 504: ERROR_RESPONSES[504]}

    @routes.get("/v1/stats", responses=unavailable, summary="The collection that is searched, and its size")
    async def stats(seen: Seen, index: Asked) -> Stats:
        name = index.follower.collection().name
        found = await recent.get((name, _question(seen)), lambda: index.searcher.stats(seen))
        return replace(found, behind=index.follower.behind)

    @routes.get("/v1/indexes", summary="The indexes that the key may see")
    async def indexes(visible: Visible) -> IndexStates:
        states = tuple(_index_state(each) for each in visible)
        return IndexStates(indexes=states, default=states[0].name if states else None)

    @routes.get(
        "/v1/facets",
        responses={400: ERROR_RESPONSES[400], 422: ERROR_RESPONSES[422], **unavailable},
        summary="The most frequent values of a field",
    )
    async def facets(
        seen: Seen,
        index: Asked,
        field: Annotated[FacetField, Query()],
        limit: Annotated[FacetLimit, Query()] = DEFAULT_FACETS,
        filter: Annotated[
            str | None,
            Query(max_length=MAX_JSON_PARAMETER, description=f"{_FILTER} As JSON; longer ones go into a POST request."),
        ] = None,
    ) -> Facets:
        return await _count_values(service, index, recent, seen, field, limit, parse_filter_parameter(filter))

    async def facets_by_body(body: FacetsBody, seen: Seen, visible: Visible) -> Facets:
        return await _count_values(service, visible.of(body.index), recent, seen, body.field, body.limit, body.filter)

    routes.add_api_route(
        "/v1/facets",
        facets_by_body,
        methods=["POST"],
        route_class_override=JsonRoute,
        responses={400: ERROR_RESPONSES[400], 422: ERROR_RESPONSES[422], **unavailable},
        summary="The same, for filters of any length",
    )

    @routes.get("/v1/models", summary="The models that an index can be made with")
    async def models(visible: Visible) -> Models:
        return _known_models(visible)

    @routes.get(
        "/v1/models/{name:path}",
        responses=unavailable | {404: {"model": ErrorResponse, "description": "The named model is not live."}},
        summary="The live model by one of its names, in OpenAI's format",
    )
    async def model(
        name: Annotated[
            str, Path(max_length=1000, description="As in `data` of `GET /v1/models`.", examples=["viewfinder"])
        ],
        visible: Visible,
    ) -> LiveModel:
        return _live_model(name, index_of_model(visible, name, None).follower.collection())

    _add_probes(routes, service)
    return routes


def _add_probes(routes: APIRouter, service: SearchService) -> None:
    """The routes by which a cluster decides if a replica lives and takes requests."""

    @routes.get(
        "/healthz",
        responses={
            503: {
                "model": ErrorResponse,
                "description": "An index is live, but its model, or the image tower, cannot be loaded.",
            }
        },
        summary="Health of the replica",
    )
    async def healthz() -> dict[str, str]:
        service.follower.check()
        return {"status": "ok"}

    @routes.get("/readyz", responses={503: ERROR_RESPONSES[503]}, summary="Readiness to answer queries")
    async def readyz(searched: _SearchedCollection = None) -> dict[str, str | bool | None]:
        collection = service.follower.collection()
        service.follower.check()
        answer = {"status": "ready", "collection": collection.name, "behind": service.follower.behind}
        # Only for who knows its name: this needs no key.
        is_asked = (
            {}
            if searched is None
            else {"is_searched": any(each.follower.uses_collection(searched) for each in service.indexes)}
        )
        return answer | is_asked


async def _count_values(
    service: SearchService,
    index: ServedIndex,
    recent: RecentAnswers,
    seen: KeyFilter,
    field: str,
    limit: int,
    condition: dict[str, Any] | None,
) -> Facets:
    """The most frequent values of a field, from `recent` without a condition."""
    collection = index.follower.collection()

    def count() -> list[tuple[str | int | bool, int]]:
        search = service.store.search
        both = search.parse(collection, condition, within=seen)
        return search.facet(collection, field, filter=both, limit=limit)

    async def ask() -> list[tuple[str | int | bool, int]]:
        found: list[tuple[str | int | bool, int]] = await service.in_thread(count)
        return found

    question = (collection.name, _question(seen), field, limit)
    counted = await (ask() if condition else recent.get(question, ask))
    values = tuple(FacetValue(value=value, count=count) for value, count in counted)
    return Facets(field=field, values=values, collection=collection.name)


def _question(seen: KeyFilter) -> str:
    """The part of the key's filter in a question whose answer is kept: keys with other filters get other answers."""
    return json.dumps(seen, sort_keys=True)


def _index_state(index: ServedIndex) -> IndexState:
    follower = index.follower
    try:
        live = follower.collection()
    except NotReadyError as error:
        return IndexState(name=index.name, behind=str(error))
    return IndexState(
        name=index.name,
        model=live.metadata.model_name,
        collection=live.name,
        in_memory=follower.current is not None,
        behind=follower.behind,
    )


def _known_models(visible: Indexes) -> Models:
    """The models of the registry, and the live ones."""
    current = [each.follower.current for each in visible]
    specs = dict(REGISTRY) | {spec.name: spec for each in current if each is not None for spec in [_live_spec(each)]}
    names = [each.name for each in fields(Model)]
    known = tuple(Model(**{name: getattr(spec, name) for name in names}) for spec in specs.values())
    live = {each.name: found for each in visible if (found := _live(each)) is not None}
    data = {each.metadata.model_name: _live_model(each.metadata.model_name, each) for each in live.values()}
    first = live.get(next(iter(visible)).name) if len(visible) else None
    if first is not None:
        data[LIVE_MODEL] = _live_model(LIVE_MODEL, first)
    return Models(models=known, live=first.metadata.model_name if first else None, data=tuple(data.values()))


def _live(index: ServedIndex) -> Collection | None:
    try:
        return index.follower.collection()
    except NotReadyError:
        return None


def _live_model(name: str, collection: Collection) -> LiveModel:
    return LiveModel(id=name, created=int(datetime.fromisoformat(collection.metadata.created_at).timestamp()))


def _live_spec(current: Generation) -> ModelSpec:
    """The live model, which may be missing in the registry, without its directory."""
    spec, encoder = current.encoder.checkpoint.spec, current.encoder
    return ModelSpec(
        spec.name,
        dimension=encoder.dimension,
        image_size=encoder.preprocess.size,
        context_length=encoder.context_length,
        languages=spec.languages,
        licence=spec.licence,
        good_for=spec.good_for,
        matryoshka=spec.matryoshka,
    )
