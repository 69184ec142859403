"""The search routes."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi import Query as QueryParameter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from viewfinder.client.results import ErrorResponse, SearchResult, SearchResults
from viewfinder.errors import FilterError
from viewfinder.query.query import QueryPart
from viewfinder.query.request import (
    BatchBody,
    CursorToken,
    Diversity,
    GroupBy,
    Id,
    Limit,
    Offset,
    RankField,
    SearchBody,
    TargetField,
    Text,
    Threshold,
    UploadOptionsBody,
)
from viewfinder.service.http.errors import ERROR_RESPONSES, HTTPError
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.search_service import SearchService

# Proxies take addresses of 16 to 64 kB, and one letter may become 12 bytes.
MAX_FILTER_PARAMETER = 4_000

_RESPONSES: dict[int | str, dict[str, Any]] = ERROR_RESPONSES | {
    404: {"model": ErrorResponse, "description": "The index holds no image with the given id."},
    410: {
        "model": ErrorResponse,
        "description": "The collection that a cursor pages through no longer exists: search again.",
    },
    413: {"model": ErrorResponse, "description": "An image, or the whole body, is too large."},
}

_FILTER = "The filter of `POST /v1/search`, as JSON."
_FORM = ("image", "options")


def router(service: SearchService) -> APIRouter:
    """The search routes over one replica's service."""
    routes = APIRouter(tags=["search"], route_class=JsonRoute)

    @routes.post("/v1/search", responses=_RESPONSES, summary="Find images by text, by image, or by several of them")
    async def search(body: SearchBody) -> SearchResult:
        return await service.search(body.query())

    @routes.get("/v1/search", responses=_RESPONSES, summary="The same with a query string")
    async def search_by_address(
        q: Annotated[Text | None, QueryParameter()] = None,
        id: Annotated[Id | None, QueryParameter()] = None,
        target: Annotated[TargetField, QueryParameter()] = "image",
        rank: Annotated[RankField, QueryParameter()] = "clip",
        limit: Annotated[Limit, QueryParameter()] = 10,
        offset: Annotated[Offset, QueryParameter()] = 0,
        cursor: Annotated[CursorToken | None, QueryParameter()] = None,
        filter: Annotated[
            str | None,
            QueryParameter(max_length=MAX_FILTER_PARAMETER, description=_FILTER, examples=['{"width":{"gte":800}}']),
        ] = None,
        score_threshold: Annotated[Threshold | None, QueryParameter()] = None,
        diversity: Annotated[Diversity, QueryParameter()] = 0.0,
        group_by: Annotated[GroupBy | None, QueryParameter()] = None,
    ) -> SearchResult:
        try:
            body = SearchBody(
                text=q,
                id=id,
                target=target,
                rank=rank,
                limit=limit,
                offset=offset,
                cursor=cursor,
                filter=filter_parameter(filter),
                score_threshold=score_threshold,
                diversity=diversity,
                group_by=group_by,
            )
        except ValidationError as error:
            raise _invalid(error, "query") from error
        return await service.search(body.query())

    @routes.post(
        "/v1/search/image",
        dependencies=[Depends(_check_form)],
        responses=_RESPONSES,
        summary="Find images similar to an uploaded one",
    )
    async def search_by_upload(
        image: Annotated[UploadFile, File(description="The image: JPEG, PNG, WebP, GIF, BMP or TIFF.")],
        options: Annotated[
            str,
            Form(
                description="The other fields of `POST /v1/search`, as JSON.",
                examples=['{"limit": 20, "target": "both"}'],
            ),
        ] = "{}",
    ) -> SearchResult:
        try:
            chosen = UploadOptionsBody.model_validate_json(options)
        except ValidationError as error:
            raise _invalid(error, "body", "options") from error
        return await service.search(chosen.build(QueryPart("image", await image.read())))

    @routes.post("/v1/search/batch", responses=_RESPONSES, summary="Up to 64 searches at once, encoded as one batch")
    async def search_batch(body: BatchBody) -> SearchResults:
        return SearchResults(results=tuple(await service.searcher.search_many(body.queries())))

    return routes


async def _check_form(request: Request) -> None:
    """Refuse a form with other fields: a `limit` beside the image would be ignored silently."""
    kind = request.headers.get("content-type", "without a type")
    if not kind.lower().startswith("multipart/form-data"):
        raise HTTPError(
            415,
            "unsupported_media_type",
            f"The body is {kind!r}, not a form with a file.",
            "Send multipart/form-data, as curl -F image=@cat.jpg does, or base64 to POST /v1/search.",
        )
    given = [name for name, _ in (await request.form()).multi_items()]
    wrong = [name for name in given if name not in _FORM or given.count(name) > 1]
    if wrong:
        raise HTTPError(
            422,
            "invalid_request",
            f"{wrong[0]}: the form takes one `image` and one `options`.",
            'Send the other fields of a search in options, as options={"limit": 5}.',
        )


def filter_parameter(text: str | None) -> dict[str, Any] | None:
    """The filter in a query string, as JSON; raises `FilterError` if it is not a JSON object."""
    if text is None:
        return None
    try:
        expression = json.loads(text)
    except (ValueError, RecursionError):
        expression = None
    if not isinstance(expression, dict):
        raise FilterError(f'filter: expected a JSON object like {{"width": {{"gte": 1024}}}}, not {text[:80]!r}.')
    return expression


def _invalid(error: ValidationError, *place: str) -> RequestValidationError:
    return RequestValidationError([{**each, "loc": (*place, *each["loc"])} for each in error.errors()])
