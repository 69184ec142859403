"""The search routes."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi import Query as QueryParameter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from viewfinder.client.requests import DEFAULT_GROUP_SIZE, DEFAULT_LIMIT
from viewfinder.client.results import ErrorResponse, FailedSearch, SearchResult, SearchResults
from viewfinder.errors import FilterError
from viewfinder.query.body import BatchBody, SearchBody, UploadOptionsBody
from viewfinder.query.errors import QueryError
from viewfinder.query.fields import (
    CollapseField,
    CollapseThreshold,
    CursorToken,
    Diversity,
    GroupBy,
    GroupSize,
    Id,
    ImageUrl,
    IndexName,
    Limit,
    MinRelevance,
    Offset,
    OrderBy,
    RankField,
    TargetField,
    Text,
    Threshold,
)
from viewfinder.query.query import Query, QueryPart
from viewfinder.service.http.errors import ERROR_RESPONSES, JSON_HINT, HTTPError, error_detail, http_error_of
from viewfinder.service.http.json_routes import JsonRoute, parse_in_turn, parse_object
from viewfinder.service.http.keys import Seen, Visible
from viewfinder.service.indexes import Indexes, UnknownIndexError
from viewfinder.service.telemetry.access_log import record_generation
from viewfinder.store.conditions import KeyFilter

# Proxies take addresses of 16 to 64 kB, and one letter may become 12 bytes.
MAX_JSON_PARAMETER = 4_000

_SEARCH_RESPONSES: dict[int | str, dict[str, Any]] = ERROR_RESPONSES | {
    404: {"model": ErrorResponse, "description": "There is no such index, or it holds no image with the given id."},
    410: {
        "model": ErrorResponse,
        "description": "The collection that a cursor pages through no longer exists: search again.",
    },
    413: {"model": ErrorResponse, "description": "An image, or the whole body, is too large."},
}

_FORM = ("image", "options")
_WeightsParameter = Annotated[
    str | None,
    QueryParameter(
        max_length=MAX_JSON_PARAMETER,
        description="The weights of rank `hybrid`, as JSON.",
        examples=['{"words":0.5}'],
    ),
]
_FilterParameter = Annotated[
    str | None,
    QueryParameter(
        max_length=MAX_JSON_PARAMETER,
        description="The filter of `POST /v1/search`, as JSON.",
        examples=['{"width":{"gte":800}}'],
    ),
]
_UploadOptions = Annotated[
    str,
    Form(
        description="The other fields of `POST /v1/search`, as JSON.",
        examples=['{"limit": 20, "target": "both"}'],
    ),
]


def router() -> APIRouter:
    """The search routes."""
    routes = APIRouter(tags=["search"], route_class=JsonRoute)

    @routes.post(
        "/v1/search",
        responses=_SEARCH_RESPONSES,
        summary="Find images by text, by image, or by several of them; or list them",
    )
    async def search(body: SearchBody, seen: Seen, visible: Visible) -> SearchResult:
        return await _search_and_log(visible, body.query(), seen)

    @routes.get("/v1/search", responses=_SEARCH_RESPONSES, summary="The same with a query string")
    async def search_by_address(
        query: Annotated[Query, Depends(_query_of_address)], seen: Seen, visible: Visible
    ) -> SearchResult:
        return await _search_and_log(visible, query, seen)

    @routes.post(
        "/v1/search/image",
        dependencies=[Depends(_check_form)],
        responses=_SEARCH_RESPONSES,
        summary="Find images similar to an uploaded one",
    )
    async def search_by_upload(
        image: Annotated[UploadFile, File(description="The image: JPEG, PNG, WebP, GIF, BMP or TIFF.")],
        seen: Seen,
        visible: Visible,
        options: _UploadOptions = "{}",
    ) -> SearchResult:
        chosen = await _upload_options(options)
        return await _search_and_log(visible, chosen.build(QueryPart("image", await image.read())), seen)

    @routes.post(
        "/v1/search/batch", responses=_SEARCH_RESPONSES, summary="Up to 64 searches at once, encoded as one batch"
    )
    async def search_batch(body: BatchBody, request: Request, seen: Seen, visible: Visible) -> SearchResults:
        answers = await _search_indexes(visible, body.queries(), seen)
        return SearchResults(
            results=tuple(
                each if isinstance(each, SearchResult) else _failed_search(each, request.state.id) for each in answers
            )
        )

    return routes


async def _query_of_address(
    q: Annotated[Text | None, QueryParameter()] = None,
    index: Annotated[IndexName | None, QueryParameter()] = None,
    id: Annotated[Id | None, QueryParameter()] = None,
    image_url: Annotated[ImageUrl | None, QueryParameter()] = None,
    target: Annotated[TargetField, QueryParameter()] = "image",
    rank: Annotated[RankField, QueryParameter()] = "clip",
    weights: _WeightsParameter = None,
    limit: Annotated[Limit, QueryParameter()] = DEFAULT_LIMIT,
    offset: Annotated[Offset, QueryParameter()] = 0,
    cursor: Annotated[CursorToken | None, QueryParameter()] = None,
    filter: _FilterParameter = None,
    order_by: Annotated[OrderBy | None, QueryParameter()] = None,
    min_relevance: Annotated[MinRelevance | None, QueryParameter()] = None,
    score_threshold: Annotated[Threshold | None, QueryParameter()] = None,
    diversity: Annotated[Diversity, QueryParameter()] = 0.0,
    group_by: Annotated[GroupBy | None, QueryParameter()] = None,
    group_size: Annotated[GroupSize, QueryParameter()] = DEFAULT_GROUP_SIZE,
    collapse: Annotated[CollapseField | None, QueryParameter()] = None,
    collapse_threshold: Annotated[CollapseThreshold | None, QueryParameter()] = None,
) -> Query:
    """The query in a query string."""
    document = {
        "text": q,
        "index": index,
        "id": id,
        "image_url": image_url,
        "target": target,
        "rank": rank,
        "weights": _parse_weights(weights),
        "limit": limit,
        "offset": offset,
        "cursor": cursor,
        "filter": parse_filter_parameter(filter),
        "order_by": order_by,
        "min_relevance": min_relevance,
        "score_threshold": score_threshold,
        "diversity": diversity,
        "group_by": group_by,
        "group_size": group_size,
        "collapse": collapse,
        "collapse_threshold": collapse_threshold,
    }
    try:
        return SearchBody.model_validate(document).query()
    except ValidationError as error:
        raise _validation_error(error, "query") from error


async def _search_and_log(visible: Indexes, query: Query, seen: KeyFilter) -> SearchResult:
    """One page of hits, with its model and collection in the access log: those of a cursor may not be live."""
    result = await visible.of(query.index).searcher.search(query, seen)
    record_generation(model=result.model, collection=result.collection)
    return result


async def _search_indexes(
    visible: Indexes, queries: Sequence[Query | QueryError], seen: KeyFilter
) -> list[SearchResult | Exception]:
    """The answers of a batch; the searches of each index are encoded and searched together.

    If an index cannot answer, its error stands in place of its results, and is raised if there is no other index.
    """
    answers: dict[int, SearchResult | Exception] = {}
    asked: dict[str, dict[int, Query]] = {}
    for number, query in enumerate(queries):
        if isinstance(query, QueryError):
            answers[number] = query
            continue
        try:
            asked.setdefault(visible.of(query.index).name, {})[number] = query
        except UnknownIndexError as error:
            answers[number] = error
    work = [visible.of(name).searcher.search_many(list(part.values()), seen) for name, part in asked.items()]
    for part, found in zip(asked.values(), await asyncio.gather(*work, return_exceptions=len(work) > 1), strict=True):
        if isinstance(found, BaseException) and not isinstance(found, Exception):
            raise found
        answers |= dict.fromkeys(part, found) if isinstance(found, Exception) else dict(zip(part, found, strict=True))
    return [answers[number] for number in range(len(queries))]


def _failed_search(error: Exception, request_id: str) -> FailedSearch:
    answered = http_error_of(error)
    return FailedSearch(status=answered.status, error=error_detail(request_id, answered))


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


async def _upload_options(text: str) -> UploadOptionsBody:
    try:
        document = await parse_in_turn(text.encode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise HTTPError(400, "invalid_json", "options: it cannot be parsed as JSON.", JSON_HINT) from error
    try:
        return UploadOptionsBody.model_validate(document)
    except ValidationError as error:
        raise _validation_error(error, "body", "options") from error


def parse_filter_parameter(text: str | None) -> dict[str, Any] | None:
    """The filter in a query string, as JSON; raises `FilterError` if it is not a JSON object."""
    expression = None if text is None else _json_object(text)
    if text is not None and expression is None:
        raise FilterError(f'filter: expected a JSON object like {{"width": {{"gte": 1024}}}}, not {text[:80]!r}.')
    return expression


def _parse_weights(text: str | None) -> dict[str, Any] | None:
    weights = None if text is None else _json_object(text)
    if text is not None and weights is None:
        raise QueryError(f'weights: expected a JSON object like {{"clip": 1, "words": 0.5}}, not {text[:80]!r}.')
    return weights


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        document = parse_object(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _validation_error(error: ValidationError, *place: str) -> RequestValidationError:
    return RequestValidationError([{**each, "loc": (*place, *each["loc"])} for each in error.errors()])
