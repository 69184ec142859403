"""Search: descriptions, pictures and their likes in, hits out."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi import Query as QueryParameter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from viewfinder.query.query import Part, Query
from viewfinder.query.ranking import Scored
from viewfinder.query.relevance import relevance
from viewfinder.service.http.refusals import ERRORS, Refusal
from viewfinder.service.http.schemas import (
    MAX_ADDRESS_FILTER,
    BatchRequest,
    BatchResponse,
    CursorToken,
    Diversity,
    ErrorResponse,
    GroupBody,
    GroupBy,
    HitBody,
    Id,
    Limit,
    Offset,
    Rank,
    SearchRequest,
    SearchResponse,
    Target,
    Text,
    Threshold,
    UploadOptions,
)
from viewfinder.service.search_service import Found, SearchService

_RESPONSES: dict[int | str, dict[str, Any]] = ERRORS | {
    404: {"model": ErrorResponse, "description": "There is no picture with the id that is to be searched by."},
    410: {"model": ErrorResponse, "description": "The collection that a cursor pages through is gone: begin again."},
    413: {"model": ErrorResponse, "description": "A picture, or the whole body, is too large."},
}

_FILTER = "The filter of `POST /v1/search`, as JSON."
_FORM = ("image", "options")


def router(service: SearchService) -> APIRouter:
    """The search routes over one replica's service."""
    routes = APIRouter(tags=["search"])

    @routes.post("/v1/search", responses=_RESPONSES, summary="Find pictures by a text, a picture, or several of them")
    async def search(body: SearchRequest) -> SearchResponse:
        return await _answer(service, body.as_query())

    @routes.get("/v1/search", responses=_RESPONSES, summary="The same, for a browser's address bar")
    async def search_by_address(
        q: Annotated[Text | None, QueryParameter()] = None,
        id: Annotated[Id | None, QueryParameter()] = None,
        target: Annotated[Target, QueryParameter()] = "image",
        rank: Annotated[Rank, QueryParameter()] = "clip",
        limit: Annotated[Limit, QueryParameter()] = 10,
        offset: Annotated[Offset, QueryParameter()] = 0,
        cursor: Annotated[CursorToken | None, QueryParameter()] = None,
        filter: Annotated[
            str | None,
            QueryParameter(max_length=MAX_ADDRESS_FILTER, description=_FILTER, examples=['{"width":{"gte":800}}']),
        ] = None,
        score_threshold: Annotated[Threshold | None, QueryParameter()] = None,
        diversity: Annotated[Diversity, QueryParameter()] = 0.0,
        group_by: Annotated[GroupBy | None, QueryParameter()] = None,
    ) -> SearchResponse:
        given = {"cursor": cursor, "filter": _filter(filter), "score_threshold": score_threshold, "group_by": group_by}
        try:
            body = SearchRequest(
                text=q, id=id, target=target, rank=rank, limit=limit, offset=offset, diversity=diversity, **given
            )
        except ValidationError as error:
            raise _invalid(error, "query") from error
        return await _answer(service, body.as_query())

    @routes.post(
        "/v1/search/image",
        dependencies=[Depends(_check_form)],
        responses=_RESPONSES,
        summary="Find pictures like one that is uploaded",
    )
    async def search_by_upload(
        image: Annotated[UploadFile, File(description="The picture: JPEG, PNG, WebP, GIF, BMP or TIFF.")],
        options: Annotated[
            str,
            Form(
                description="The other fields of `POST /v1/search`, as JSON.",
                examples=['{"limit": 20, "target": "both"}'],
            ),
        ] = "{}",
    ) -> SearchResponse:
        try:
            chosen = UploadOptions.model_validate_json(options)
        except ValidationError as error:
            raise _invalid(error, "body", "options") from error
        return await _answer(service, chosen.query(Part("image", await image.read())))

    @routes.post("/v1/search/batch", responses=_RESPONSES, summary="Up to 64 searches at once, encoded as one batch")
    async def search_batch(body: BatchRequest) -> BatchResponse:
        found = await service.search_many([each.as_query() for each in body.searches])
        return BatchResponse(results=[_response(each) for each in found])

    return routes


async def _answer(service: SearchService, query: Query) -> SearchResponse:
    return _response(await service.search(query))


async def _check_form(request: Request) -> None:
    """Refuse a form with more than is looked at: who sends `limit` beside the picture would not see it ignored."""
    kind = request.headers.get("content-type", "of no type")
    if not kind.lower().startswith("multipart/form-data"):
        raise Refusal(
            415,
            "unsupported_media_type",
            f"The body is {kind!r}, not a form with a file.",
            "Send multipart/form-data, as curl -F image=@cat.jpg does, or base64 to POST /v1/search.",
        )
    given = [name for name, _ in (await request.form()).multi_items()]
    wrong = [name for name in given if name not in _FORM or given.count(name) > 1]
    if wrong:
        raise Refusal(
            422,
            "invalid_request",
            f"{wrong[0]}: the form has one `image` and one `options`, and nothing else.",
            'The other fields of a search stand in options, as options={"limit": 5}.',
        )


def _filter(text: str | None) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "invalid_filter", "filter: it is not JSON.", 'As in filter={"width":{"gte":800}}') from error
    if not isinstance(value, dict):
        raise Refusal(400, "invalid_filter", "filter: it is no JSON object.", 'As in filter={"width":{"gte":800}}')
    return value


def _invalid(error: ValidationError, *place: str) -> RequestValidationError:
    return RequestValidationError([{**each, "loc": (*place, *each["loc"])} for each in error.errors()])


def _response(found: Found) -> SearchResponse:
    groups = found.page.groups
    return SearchResponse(
        hits=[_hit(found, each) for each in found.page.hits],
        groups=None
        if groups is None
        else [GroupBody(value=value, hits=[_hit(found, each) for each in hits]) for value, hits in groups],
        model=found.collection.metadata.model_name,
        collection=found.collection.name,
        took_ms=round(found.took_ms, 2),
        cursor=found.cursor,
        warnings=list(found.warnings),
    )


def _hit(found: Found, scored: Scored) -> HitBody:
    hit = scored.hit
    payload = dict(hit.payload)
    return HitBody(
        id=hit.id,
        score=hit.score,
        relevance=relevance(found.collection.metadata.baselines, found.kind, scored.cosines),
        uri=payload.get("uri", ""),
        caption=payload.get("caption"),
        width=payload.get("width"),
        height=payload.get("height"),
        payload=payload,
    )
