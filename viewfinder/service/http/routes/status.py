"""What a replica serves, and whether it can."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from viewfinder.errors import FilterError
from viewfinder.models.registry import REGISTRY, ModelSpec
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.refusals import ERRORS
from viewfinder.service.http.schemas import MAX_ADDRESS_FILTER, StatsResponse
from viewfinder.service.search_service import SearchService

MAX_FACETS = 100


class StatsBody(StatsResponse):
    """What this replica serves, and what the index is made of."""

    captions: int = Field(description="Points that have a caption.")
    sources: list[str] = Field(description="Where the pictures come from.")
    fields: dict[str, str] = Field(description="What the captions file gives besides captions: `meta.NAME` and type.")
    relevance: bool = Field(description="Whether hits can say how relevant they are: the index knows its own scores.")
    last_run: str | None = Field(description="The last run of the index job.")


class FacetValue(BaseModel):
    """One value of a field."""

    value: str | int | float | bool
    count: int = Field(description="Pictures that have it.")


class FacetsBody(BaseModel):
    """The commonest values of a field, by how many pictures have them."""

    field: str
    values: list[FacetValue]
    collection: str = Field(description="Physical name of the collection that was asked.")


class ModelBody(BaseModel):
    """A model that can be named; what its configuration alone tells is null."""

    name: str
    dimension: int | None = Field(None, description="Numbers of a vector.")
    image_size: int | None = Field(None, description="Pixels a side.")
    context_length: int | None = Field(None, description="Tokens of a text, start and end marks included.")
    languages: str
    licence: str = Field(description="Of the weights.")
    good_for: str


class ModelsBody(BaseModel):
    """The models that an index can be made with."""

    models: list[ModelBody]
    live: str | None = Field(description="The one that answers queries now.")


def router(service: SearchService) -> APIRouter:
    """The status routes over one replica's service."""
    routes = APIRouter(tags=["status"])
    unavailable: dict[int | str, dict[str, Any]] = {503: ERRORS[503], 504: ERRORS[504]}

    @routes.get("/v1/stats", responses=unavailable, summary="What this replica serves")
    async def stats() -> StatsBody:
        generation = service.generation()
        collection, metadata = generation.collection, generation.collection.metadata
        points, captions = await asyncio.gather(
            service.points(generation),
            service.in_thread(service.store.points.count, collection, {"has_caption": {"eq": True}}),
        )
        return StatsBody(
            index=collection.index,
            model=generation.model,
            fingerprint=metadata.fingerprint,
            dimension=metadata.dimension,
            collection=collection.name,
            points=points,
            captions=captions,
            state=metadata.state,
            created_at=metadata.created_at,
            sources=[str(each["source"]) for each in metadata.sources],
            fields=dict(metadata.fields),
            relevance=bool(metadata.baselines),
            last_run=metadata.runs[-1] if metadata.runs else None,
            problem=service.follower.problem,
        )

    @routes.get(
        "/v1/facets",
        responses={400: ERRORS[400], 422: ERRORS[422], **unavailable},
        summary="The commonest values of a field",
    )
    async def facets(
        field: Annotated[
            str,
            Query(min_length=1, max_length=1000, description="A field of the payload.", examples=["tags", "format"]),
        ],
        limit: Annotated[int, Query(ge=1, le=MAX_FACETS, description="Largest number of values.")] = 20,
        filter: Annotated[
            str | None,
            Query(max_length=MAX_ADDRESS_FILTER, description="Count only what it lets through: JSON, as in a search."),
        ] = None,
    ) -> FacetsBody:
        collection = service.generation().collection
        condition = _parsed(filter)
        counted = await service.in_thread(service.store.search.facet, collection, field, filter=condition, limit=limit)
        values = [FacetValue(value=value, count=count) for value, count in counted]
        return FacetsBody(field=field, values=values, collection=collection.name)

    @routes.get("/v1/models", summary="The models that an index can be made with")
    async def models() -> ModelsBody:
        current = service.follower.current
        known = dict(REGISTRY) | {spec.name: spec for spec in _live_spec(current)}
        named = ModelBody.model_fields
        bodies = [ModelBody(**{name: getattr(spec, name) for name in named}) for spec in known.values()]
        return ModelsBody(models=bodies, live=current.model if current else None)

    @routes.get("/healthz", summary="Whether the process works")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", responses={503: ERRORS[503]}, summary="Whether queries can be answered")
    async def readyz() -> dict[str, str | None]:
        generation = service.generation()
        return {"status": "ready", "collection": generation.collection.name, "problem": service.follower.problem}

    return routes


def _parsed(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        expression = json.loads(text)
    except (ValueError, RecursionError):
        expression = None
    if not isinstance(expression, dict):
        raise FilterError(f'filter: expected a JSON object like {{"width": {{"gte": 1024}}}}, not {text[:80]!r}.')
    return expression


def _live_spec(current: Generation | None) -> list[ModelSpec]:
    """The live model, which may be one that the registry does not know, without its place on a disk."""
    if current is None:
        return []
    spec, encoder = current.encoder.checkpoint.spec, current.encoder
    return [
        ModelSpec(
            spec.name,
            dimension=encoder.dimension,
            image_size=encoder.preprocess.size,
            context_length=encoder.context_length,
            languages=spec.languages,
            licence=spec.licence,
            good_for=spec.good_for,
        )
    ]
