"""The JSON form of a search: its fields, their bounds, and which options go together.

The service's routes, its OpenAPI schema and the engine's local mode all use these models, so a search is accepted, or
refused with the same message, wherever it is made.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from viewfinder.client.requests import Rank, Target
from viewfinder.query.cursor import MAX_CURSOR, MAX_POSITION
from viewfinder.query.errors import QueryError
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.ranking import WINDOW

MAX_LIMIT = 200
MAX_QUERY_TEXT = 4_000
MAX_PARTS = 16
MAX_SEARCHES = 64
MAX_BATCH_PARTS = 256
MAX_BATCH_IMAGES = 64

Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_QUERY_TEXT,
        description="Describes the images to find. Tokens beyond the model's context are ignored, with a warning.",
        examples=["a cat on the beach"],
    ),
]
Base64Image = Annotated[
    str,
    Field(
        min_length=1,
        description="An image as base64 or as a `data:` URL: JPEG, PNG, WebP, GIF, BMP or TIFF.",
        examples=["data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ..."],
    ),
]
ImageUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="Public http(s) URL of an image, if the service may fetch URLs (`VIEWFINDER_ALLOW_IMAGE_URL`).",
        examples=["https://example.org/cat.jpg"],
    ),
]
Id = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$",
        description="Id of an indexed image, as in a hit: finds similar images, not the image itself.",
        examples=["0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a"],
    ),
    AfterValidator(str.lower),
]
FiniteNumber = Annotated[float, Field(strict=True, allow_inf_nan=False)]
RawVector = Annotated[
    list[FiniteNumber],
    Field(
        min_length=1,
        max_length=8192,
        description="A vector of the live model's dimension (`/v1/stats`), of any length above zero.",
        examples=[[0.12, -0.03, 0.99]],
    ),
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Maximum number of hits, or of groups.", examples=[10])]
Offset = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_POSITION,
        description=f"Number of hits (or groups) to skip, from the best. Below {WINDOW} unless hits are ordered by the "
        "cosine of one vector. `cursor` pages without repeating or missing hits.",
        examples=[0],
    ),
]
TargetField = Annotated[
    Target,
    Field(
        description="Compare with the images, with their captions, or with both: then ranks are fused, and `score` is "
        "the higher of the two cosines. Rank `words` always searches captions."
    ),
]
RankField = Annotated[
    Rank,
    Field(
        description="`clip`: by the model's cosine. `words`: by the words of the caption (BM25). `hybrid`: both, fused "
        "by reciprocal rank. `words` and `hybrid` need a text."
    ),
]
CursorToken = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_CURSOR,
        description="The `cursor` of the previous page, with the same query and without `offset`; `limit` may change. "
        "Pages neither repeat nor miss an image, even while images are added and removed.",
        # Only documented here: `Cursor.decode` refuses another alphabet as a damaged cursor.
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"},
    ),
]
FilterExpression = Annotated[
    dict[str, Any],
    Field(
        description='Conditions on the payload: `{"field": {"eq"|"ne"|"in"|"gt"|"gte"|"lt"|"lte"|"text": value}}`, '
        "all of which must hold, combined by `and`, `or`, `not`. Fields of the captions file are `meta.NAME`.",
        examples=[{"and": [{"format": {"eq": "jpeg"}}, {"width": {"gte": 256}}]}],
    ),
]
Threshold = Annotated[
    float,
    Field(
        ge=-1,
        le=1,
        description="Leave out hits with a lower cosine. Not with target `both` and ranks `words` and `hybrid`, which "
        "order hits by rank.",
        examples=[0.25],
    ),
]
Diversity = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Above 0, hits are also chosen to differ from each other (maximal marginal relevance): 0.3 thins "
        "out near-duplicates, 1 ignores the query. They are chosen from the `10 * limit` nearest (100 to 1,000). Only "
        "with rank `clip`, one target, and without `group_by`.",
        examples=[0.3],
    ),
]
GroupBy = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="A payload field of keywords or whole numbers, such as `tags`, `bucket` or `meta.album`: hits are "
        "returned as `groups` that share a value. Images without a value are left out.",
        examples=["tags"],
    ),
]
GroupSize = Annotated[int, Field(ge=1, le=10, description="Maximum number of hits in a group.")]

_PART_FIELDS = ("text", "image", "image_url", "id", "vector")
_EXACTLY_ONE: list[Any] = [
    {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in _PART_FIELDS
]


class WeightsBody(BaseModel):
    """The weights of the two orders in rank `hybrid`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"clip": 1, "words": 0.5}]})

    clip: float = Field(
        1.0, strict=True, ge=0, le=100, allow_inf_nan=False, description="Weight of the order by cosine."
    )
    words: float = Field(
        1.0, strict=True, ge=0, le=100, allow_inf_nan=False, description="Weight of the order by words."
    )


class PartFields(BaseModel):
    """One thing to search by: exactly one of these fields."""

    model_config = ConfigDict(extra="forbid")

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
        extra="forbid",
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


class SearchOptionsBody(BaseModel):
    """The options of a search."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"limit": 20, "target": "both"}]})

    target: TargetField = "image"
    rank: RankField = "clip"
    weights: WeightsBody | None = Field(default=None, description="For rank `hybrid`; both 1 by default.")
    # Strict: JSON has numbers, a URL only text.
    limit: Limit = Field(10, strict=True)
    offset: Offset = Field(0, strict=True)
    cursor: CursorToken | None = None
    filter: FilterExpression | None = None
    score_threshold: Threshold | None = Field(None, strict=True)
    diversity: Diversity = Field(0.0, strict=True)
    group_by: GroupBy | None = None
    group_size: GroupSize = Field(default=3, strict=True)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Refuse options that contradict each other."""
        ranked_by = self.build().ranked_by
        if self.weights is not None:
            if self.rank != "hybrid":
                _refuse("weights: only rank 'hybrid' has weights, not rank {rank}.", rank=repr(self.rank))
            if self.weights.clip == self.weights.words == 0:
                _refuse("weights: at least one of clip and words must be above 0.")
        if self.score_threshold is not None and ranked_by:
            _refuse(
                "score_threshold: cannot be combined with {ranked_by}, which orders hits by rank: a hit with a low "
                "cosine may rank before one with a high cosine.",
                ranked_by=ranked_by,
            )
        if self.diversity > 0 and (ranked_by or self.group_by):
            _refuse(
                "diversity: cannot be combined with {other}. It chooses among the neighbours of one vector.",
                other=ranked_by or "group_by",
            )
        if self.cursor is not None and self.offset:
            _refuse("offset: cannot be combined with cursor, which holds the start of its page.")
        if self.offset >= WINDOW and (
            kind := ranked_by or (self.diversity and "diversity") or (self.group_by and "group_by")
        ):
            _refuse("offset: must be below {window} with {kind}.", window=WINDOW, kind=kind)
        return self

    def build(self, *parts: QueryPart) -> Query:
        """The query for these parts with these options."""
        weights = self.weights or WeightsBody(clip=1, words=1)
        return Query(
            parts,
            target=self.target,
            rank=self.rank,
            weights=(weights.clip, weights.words),
            limit=self.limit,
            offset=self.offset,
            cursor=self.cursor,
            filter=self.filter,
            score_threshold=self.score_threshold,
            diversity=self.diversity,
            group_by=self.group_by,
            group_size=self.group_size,
        )


class UploadOptionsBody(SearchOptionsBody):
    """The options of a search by an uploaded image."""

    @model_validator(mode="after")
    def _check_rank(self) -> Self:
        if self.rank != "clip":
            _refuse("rank: {rank} searches by words, which an image does not have.", rank=repr(self.rank))
        return self


class SearchBody(SearchOptionsBody, PartFields):
    """A search: exactly one of `text`, `image`, `image_url`, `id`, `vector` and `queries`, and options."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "a cat on the beach", "limit": 5},
                {"id": "0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a", "diversity": 0.3},
                {"text": "red car", "rank": "hybrid", "weights": {"clip": 1, "words": 0.5}, "target": "both"},
                {"queries": [{"text": "a dog"}, {"text": "grass", "weight": -0.5}], "filter": {"width": {"gte": 800}}},
            ],
            "oneOf": [
                *_EXACTLY_ONE,
                {"required": ["queries"], "properties": {"queries": {"not": {"type": "null"}}}},
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
        _exactly_one(given, (*_PART_FIELDS, "queries"))
        if self.rank == "words" and self.text is None:
            parts = [kind for each in self.queries for kind in each.given()] if self.queries else given
            _refuse("rank: 'words' searches by a text alone, not by {parts}.", parts=" and ".join(parts))
        if self.rank == "hybrid" and not self.query().words:
            _refuse("rank: 'hybrid' needs a text with a weight above 0.")
        return self

    def query(self) -> Query:
        """The search as plain values."""
        return self.build(*([each.part(each.weight) for each in self.queries] if self.queries else [self.part()]))


class BatchBody(BaseModel):
    """Several searches at once."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"searches": [{"text": "a cat"}, {"text": "a dog", "limit": 3}]}]},
    )

    searches: list[SearchBody] = Field(
        min_length=1,
        max_length=MAX_SEARCHES,
        description="Encoded as one batch and searched in one request. Without cursors: a batch searches one "
        "collection, and each cursor belongs to its own.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for number, search in enumerate(self.searches):
            if search.cursor is not None:
                _refuse(
                    "searches.{number}.cursor: a batch takes no cursors; follow them one by one at POST /v1/search.",
                    number=number,
                )
        parts = [part for query in self.queries() for part in query.parts]
        images = sum(part.kind in ("image", "image_url") for part in parts)
        if len(parts) > MAX_BATCH_PARTS or images > MAX_BATCH_IMAGES:
            _refuse(
                "searches: one batch takes up to {max_parts} parts and {max_images} images, not {parts} and {images}.",
                max_parts=MAX_BATCH_PARTS,
                max_images=MAX_BATCH_IMAGES,
                parts=len(parts),
                images=images,
            )
        return self

    def queries(self) -> list[Query]:
        """The searches as plain values."""
        return [each.query() for each in self.searches]


def parse_query(document: Mapping[str, Any]) -> Query:
    """The query of a JSON object as in `POST /v1/search`; raises `QueryError`."""
    try:
        return SearchBody.model_validate(document).query()
    except ValidationError as error:
        raise QueryError(describe_errors(error.errors())) from error


def parse_batch(documents: Iterable[Mapping[str, Any]]) -> list[Query]:
    """The queries of up to 64 such objects, as in `POST /v1/search/batch`; raises `QueryError`."""
    try:
        return BatchBody.model_validate({"searches": list(documents)}).queries()
    except ValidationError as error:
        raise QueryError(describe_errors(error.errors())) from error


def describe_errors(errors: Iterable[ErrorDetails]) -> str:
    """The problems that pydantic found, each after the path of its field."""
    problems = []
    for each in errors:
        path = ".".join(map(str, each["loc"]))
        message = each["msg"].removeprefix("Value error, ")
        problems.append(f"{path}: {message}" if path else message)
    return "; ".join(problems)


def _exactly_one(given: list[str], known: tuple[str, ...]) -> None:
    if len(given) != 1:
        _refuse(
            "give exactly one of {known}, not {given}.",
            known=", ".join(known),
            given=" and ".join(given) or "none",
        )


def _refuse(message: str, **values: Any) -> None:
    raise PydanticCustomError("combination", message, values)
