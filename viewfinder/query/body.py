"""The JSON form of a search, and the checks of which options go together.

The service's routes, its OpenAPI schema and the engine's local mode all use these models, so a search is accepted, or
refused with the same message, wherever it is made.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from viewfinder.client.requests import (
    DEFAULT_COLLAPSE_THRESHOLD,
    DEFAULT_GROUP_SIZE,
    DEFAULT_LIMIT,
    MAX_BATCH_HITS,
    MAX_BATCH_NEAR,
    MAX_COLLAPSED,
    MAX_HITS,
)
from viewfinder.query.errors import QueryError
from viewfinder.query.fields import (
    MAX_BATCH_IMAGES,
    MAX_BATCH_PARTS,
    MAX_PARTS,
    MAX_SEARCHES,
    Base64Image,
    CollapseField,
    CollapseThreshold,
    CursorToken,
    Diversity,
    FilterExpression,
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
    RawVector,
    TargetField,
    Text,
    Threshold,
)
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.validation import JsonBody, describe_errors, refuse

_PART_FIELDS = ("text", "image", "image_url", "id", "vector")


def _given(name: str) -> dict[str, Any]:
    """JSON schema of an object with this field."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


_EXACTLY_ONE: list[Any] = [_given(name) for name in _PART_FIELDS]


class WeightsBody(JsonBody):
    """The weights of the two orders in rank `hybrid`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"clip": 1, "words": 0.5}]})

    clip: float = Field(
        1.0, strict=True, ge=0, le=100, allow_inf_nan=False, description="Weight of the order by cosine."
    )
    words: float = Field(
        1.0, strict=True, ge=0, le=100, allow_inf_nan=False, description="Weight of the order by words."
    )


class PartFields(JsonBody):
    """One thing to search by: exactly one of these fields."""

    text: Text | None = None
    image: Base64Image | None = None
    image_url: ImageUrl | None = None
    id: Id | None = None
    vector: RawVector | None = None

    def given(self) -> list[str]:
        """The names of the fields that are set."""
        return [name for name in _PART_FIELDS if getattr(self, name) is not None]

    def part(self, weight: float = 1.0) -> QueryPart:
        kind: Any = self.given()[0]
        value = getattr(self, kind)
        return QueryPart(kind, tuple(value) if kind == "vector" else value, weight)


class PartBody(PartFields):
    """One part of a combined query."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "grass", "weight": -0.5}], "oneOf": _EXACTLY_ONE},
    )

    weight: float = Field(
        1.0,
        strict=True,
        ge=-100,
        le=100,
        allow_inf_nan=False,
        description="Below 0 to move away from this part.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self.given(), _PART_FIELDS)
        return self


class SearchOptionsBody(JsonBody):
    """The options of a search."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"limit": 20, "target": "both"}]})

    index: IndexName | None = None
    target: TargetField = "image"
    rank: RankField = "clip"
    weights: WeightsBody | None = Field(default=None, description="For rank `hybrid`; both 1 by default.")
    # Strict: JSON has numbers, a URL only text.
    limit: Limit = Field(DEFAULT_LIMIT, strict=True)
    offset: Offset = Field(0, strict=True)
    cursor: CursorToken | None = None
    filter: FilterExpression | None = None
    order_by: OrderBy | None = None
    min_relevance: MinRelevance | None = Field(None, strict=True)
    score_threshold: Threshold | None = Field(None, strict=True)
    diversity: Diversity = Field(0.0, strict=True)
    group_by: GroupBy | None = None
    group_size: GroupSize = Field(default=DEFAULT_GROUP_SIZE, strict=True)
    collapse: CollapseField | None = None
    collapse_threshold: CollapseThreshold | None = Field(None, strict=True)

    @property
    def max_hits(self) -> int:
        """Maximum number of hits of one page."""
        return self.limit * (self.group_size if self.group_by else 1)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Refuse options that contradict each other, whatever the query is."""
        ranked_by = self.build().ranked_by
        if self.weights is not None:
            if self.rank != "hybrid":
                refuse("weights: only rank 'hybrid' has weights, not rank {rank}.", rank=repr(self.rank))
            if self.weights.clip == self.weights.words == 0:
                refuse("weights: at least one of clip and words must be above 0.")
        if self.score_threshold is not None and ranked_by:
            refuse(
                "score_threshold: cannot be combined with {ranked_by}, which orders hits by rank: a hit with a low "
                "cosine may rank before one with a high cosine.",
                ranked_by=ranked_by,
            )
        if self.diversity > 0 and (ranked_by or self.group_by):
            refuse(
                "diversity: cannot be combined with {other}. It chooses among the neighbours of one vector.",
                other=ranked_by or "group_by",
            )
        if self.collapse is not None and self.group_by:
            refuse("collapse: cannot be combined with group_by, whose groups may share an image.")
        if self.collapse_threshold is not None and self.collapse != "near":
            refuse("collapse_threshold: only collapse 'near' has a threshold.")
        if self.cursor is not None and self.offset:
            refuse("offset: cannot be combined with cursor, which holds the start of its page.")
        if self.order_by is not None and (self.rank == "hybrid" or self.diversity > 0 or self.group_by):
            refuse(
                "order_by: cannot be combined with {other}, which is an order of its own.",
                other="rank 'hybrid'" if self.rank == "hybrid" else "diversity" if self.diversity else "group_by",
            )
        return self

    def check_query(self, query: Query) -> None:
        """Refuse what the options alone allow, but not with this query."""
        if not query.parts:
            _refuse_options_of_a_query(self)
        elif query.order and self.rank != "words" and self.min_relevance is None and self.score_threshold is None:
            refuse(
                "order_by: with a query it needs min_relevance or score_threshold (target 'both': min_relevance), "
                "because every image has a score. Without a query it orders all images."
            )
        if self.offset >= query.last_position < MAX_HITS:
            diverse = f"diversity and limit {self.limit}" if self.diversity else None
            ordered = "collapse" if query.collapse else "order_by" if query.order else None
            refuse(
                "offset: must be below {last} with {kind}.",
                last=query.last_position,
                kind=ordered or query.ranked_by or diverse or "group_by",
            )

    def build(self, *parts: QueryPart) -> Query:
        """The query for these parts with these options."""
        weights = self.weights or WeightsBody(clip=1, words=1)
        return Query(
            parts,
            index=self.index,
            target=self.target,
            rank=self.rank,
            weights=(weights.clip, weights.words),
            limit=self.limit,
            offset=self.offset,
            cursor=self.cursor,
            filter=self.filter,
            order_by=self.order_by,
            min_relevance=self.min_relevance,
            score_threshold=self.score_threshold,
            diversity=self.diversity,
            group_by=self.group_by,
            group_size=self.group_size,
            collapse=self.collapse,
            collapse_threshold=DEFAULT_COLLAPSE_THRESHOLD
            if self.collapse_threshold is None
            else self.collapse_threshold,
        )


class UploadOptionsBody(SearchOptionsBody):
    """The options of a search by an uploaded image."""

    @model_validator(mode="after")
    def _check_rank(self) -> Self:
        if self.rank != "clip":
            refuse("rank: {rank} searches by words, which an image does not have.", rank=repr(self.rank))
        self.check_query(self.build(QueryPart("image", "")))
        return self


class SearchBody(SearchOptionsBody, PartFields):
    """A search: exactly one of `text`, `image`, `image_url`, `id`, `vector` and `queries`, and options.

    Without any of these, `filter` or `order_by` list images in the order of a field.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "a cat on the beach", "limit": 5},
                {"id": "0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a", "diversity": 0.3},
                {"text": "red car", "rank": "hybrid", "weights": {"clip": 1, "words": 0.5}, "target": "both"},
                {"queries": [{"text": "a dog"}, {"text": "grass", "weight": -0.5}], "filter": {"width": {"gte": 800}}},
                {"text": "a cat", "min_relevance": 0.95, "order_by": "-last_modified"},
                {"filter": {"tags": {"eq": "beach"}}, "order_by": "-size"},
                {"text": "a cat", "collapse": "near", "collapse_threshold": 0.95},
            ],
            "oneOf": [
                *_EXACTLY_ONE,
                _given("queries"),
                {
                    "anyOf": [_given("filter"), _given("order_by")],
                    "not": {"anyOf": [*_EXACTLY_ONE, _given("queries")]},
                },
            ],
        },
    )

    queries: list[PartBody] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_PARTS,
        description="Several parts at once: the weighted sum of their unit vectors.",
        examples=[[{"text": "a dog"}, {"image_url": "https://example.org/park.jpg"}, {"text": "grass", "weight": -1}]],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.given() + (["queries"] if self.queries is not None else [])
        if not given and self.filter is None and self.order_by is None:
            refuse(
                "give exactly one of {known}; or filter or order_by, to list images without a query.",
                known=", ".join((*_PART_FIELDS, "queries")),
            )
        if given:
            _exactly_one(given, (*_PART_FIELDS, "queries"))
        self.check_query(self.query())
        if given and self.rank == "words" and self.text is None:
            parts = [kind for each in self.queries for kind in each.given()] if self.queries else given
            if set(parts) == {"text"}:
                refuse("rank: 'words' needs `text`, not queries, whose weights it does not use.")
            refuse("rank: 'words' searches by a text alone, not by {parts}.", parts=" and ".join(parts))
        if given and self.rank == "hybrid" and not self.query().words:
            refuse("rank: 'hybrid' needs a text with a weight above 0.")
        return self

    def query(self) -> Query:
        """The search as plain values."""
        if self.queries is not None:
            return self.build(*(each.part(each.weight) for each in self.queries))
        return self.build(*([self.part()] if self.given() else []))


def _search_or_error(value: Any, check: ValidatorFunctionWrapHandler) -> "SearchBody | QueryError":
    """A search of a batch; a wrong one does not refuse the others."""
    try:
        search: SearchBody = check(value)
    except ValidationError as error:
        return QueryError(describe_errors(error.errors()))
    if search.cursor is not None:
        return QueryError("cursor: a batch takes no cursors; follow each with single searches.")
    return search


SearchOfBatch = Annotated[SearchBody, WrapValidator(_search_or_error)]


class BatchBody(JsonBody):
    """Several searches at once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"searches": [{"text": "a cat"}, {"text": "a dog", "limit": 3}]}]},
    )

    searches: list[SearchOfBatch] = Field(
        min_length=1,
        max_length=MAX_SEARCHES,
        description="Encoded as one batch and searched in one request. Without cursors: a batch searches one "
        "collection, and each cursor belongs to its own.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = [part for query in self.queries() if isinstance(query, Query) for part in query.parts]
        images = sum(part.kind in ("image", "image_url") for part in parts)
        if len(parts) > MAX_BATCH_PARTS or images > MAX_BATCH_IMAGES:
            refuse(
                "searches: one batch takes up to {max_parts} parts and {max_images} images, not {parts} and {images}.",
                max_parts=MAX_BATCH_PARTS,
                max_images=MAX_BATCH_IMAGES,
                parts=len(parts),
                images=images,
            )
        hits = sum(each.max_hits for each in self.searches if isinstance(each, SearchBody))
        if hits > MAX_BATCH_HITS:
            refuse(
                "searches: one batch returns up to {maximum} hits (`limit`, times `group_size` with `group_by`), not "
                "{hits}.",
                maximum=MAX_BATCH_HITS,
                hits=hits,
            )
        similar = sum(isinstance(each, SearchBody) and each.collapse == "near" for each in self.searches)
        if similar > MAX_BATCH_NEAR:
            refuse(
                "searches: one batch takes up to {maximum} with collapse 'near', which compares {compared} images, not "
                "{similar}.",
                maximum=MAX_BATCH_NEAR,
                compared=MAX_COLLAPSED,
                similar=similar,
            )
        return self

    def queries(self) -> list[Query | QueryError]:
        """The searches as plain values, or why one is refused."""
        return [each if isinstance(each, QueryError) else each.query() for each in self.searches]


def parse_query(document: Mapping[str, Any]) -> Query:
    """The query of a JSON object as in `POST /v1/search`; raises `QueryError`."""
    try:
        return SearchBody.model_validate(document).query()
    except ValidationError as error:
        raise QueryError(describe_errors(error.errors())) from error


def parse_batch(documents: Iterable[Mapping[str, Any]]) -> list[Query | QueryError]:
    """The queries of up to 64 such objects, as in `POST /v1/search/batch`; raises `QueryError` for too many of them."""
    try:
        return BatchBody.model_validate({"searches": list(documents)}).queries()
    except ValidationError as error:
        raise QueryError(describe_errors(error.errors())) from error


def _refuse_options_of_a_query(options: SearchOptionsBody) -> None:
    """Refuse options that compare with a query where there is none; `min_relevance` is refused with its own code."""
    given = {
        "rank": options.rank != "clip",
        "target": options.target != "image",
        "score_threshold": options.score_threshold is not None,
        "diversity": options.diversity > 0,
        "group_by": options.group_by is not None,
    }
    for name in (name for name, is_given in given.items() if is_given):
        refuse(
            "{name}: needs a query, such as text. Without one, images are listed in the order of a field.", name=name
        )


def _exactly_one(given: list[str], known: tuple[str, ...]) -> None:
    if len(given) != 1:
        refuse(
            "give exactly one of {known}, not {given}.",
            known=", ".join(known),
            given=" and ".join(given) or "none",
        )
