"""The bodies of searches and of errors, as clients and /docs see them."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from viewfinder.query.cursor import MAX_CURSOR, MAX_DEPTH
from viewfinder.query.query import Part, Query
from viewfinder.query.ranking import WINDOW
from viewfinder.store.filters import check_groupable, parse_filter

MAX_LIMIT = 200
MAX_OFFSET = MAX_DEPTH
MAX_TEXT = 4_000
# Of a filter in an address, which has not much room: proxies take 16 to 64 kB, and a letter may become 12 bytes.
MAX_ADDRESS_FILTER = 4_000
MAX_PARTS = 16
MAX_SEARCHES = 64
MAX_BATCH_PARTS = 256
MAX_BATCH_PICTURES = 64

Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_TEXT,
        description="What the pictures shall show, in plain words. What goes beyond the model's context is left out, "
        "with a warning that says how much.",
        examples=["a cat on the beach"],
    ),
]
Base64Image = Annotated[
    str,
    Field(
        min_length=1,
        description="A picture as base64 or as a `data:` URL: JPEG, PNG, WebP, GIF, BMP or TIFF.",
        examples=["data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ..."],
    ),
]
ImageUrl = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        description="Public http(s) address of a picture, where the service is allowed to fetch "
        "(`VIEWFINDER_ALLOW_IMAGE_URL`).",
        examples=["https://example.org/cat.jpg"],
    ),
]
Id = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$",
        description="Id of a picture of the index, as hits have it: its likes are found, and not itself.",
        examples=["0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a"],
    ),
    AfterValidator(str.lower),
]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
RawVector = Annotated[
    list[Number],
    Field(
        min_length=1,
        max_length=8192,
        description="A vector of the live model's dimension (`/v1/stats`), of any length but zero.",
        examples=[[0.12, -0.03, 0.99]],
    ),
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Largest number of hits, or of groups.", examples=[10])]
Offset = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_OFFSET,
        description=f"Hits (or groups) to leave out, from the best. Below {WINDOW} where the order is not that of one "
        "vector's cosines. `cursor` turns pages without repeating or missing any.",
        examples=[0],
    ),
]
Target = Annotated[
    Literal["image", "caption", "both"],
    Field(
        description="Compare with the pictures, with their captions, or with both: then ranks are fused, and `score` "
        "is the better of the two cosines. Rank `words` looks at captions whatever stands here."
    ),
]
Rank = Annotated[
    Literal["clip", "words", "hybrid"],
    Field(
        description="`clip`: by the model's cosine. `words`: by the words of the caption (BM25). `hybrid`: both, fused "
        "by reciprocal rank. The last two need a text."
    ),
]
CursorToken = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_CURSOR,
        description="The `cursor` of the page before, with the same query and without `offset`; `limit` may change. "
        "Pages neither repeat nor miss a picture, even while pictures come and go.",
        # Said, and checked with the rest of it: another alphabet is a damaged cursor.
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"},
    ),
]
FilterExpression = Annotated[
    dict[str, Any],
    Field(
        description='Conditions on the payload: `{"field": {"eq"|"ne"|"in"|"gt"|"gte"|"lt"|"lte"|"text": value}}`, '
        "all of which must hold, joined by `and`, `or`, `not`. Fields of the captions file are `meta.NAME`.",
        examples=[{"and": [{"format": {"eq": "jpeg"}}, {"width": {"gte": 256}}]}],
    ),
]
Threshold = Annotated[
    float,
    Field(
        ge=-1,
        le=1,
        description="Leave out hits whose cosine is lower. Only where the order is that of one vector's cosines: not "
        "with target `both` and not with ranks `words` and `hybrid`, which order by ranks.",
        examples=[0.25],
    ),
]
Diversity = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Above 0, hits are chosen to be unlike each other, too (maximal marginal relevance): 0.3 thins out "
        "near-duplicates, 1 forgets the query. They are chosen from the `10 * limit` nearest (100 to 1,000). With rank "
        "`clip` and one target, and without `group_by`.",
        examples=[0.3],
    ),
]
GroupBy = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="A payload field of keywords or whole numbers, such as `tags`, `bucket` or `meta.album`: hits come "
        "as `groups` that share a value. What has no value is left out.",
        examples=["tags"],
    ),
]
GroupSize = Annotated[int, Field(ge=1, le=10, description="Most hits of one group.")]

_SOUGHT = ("text", "image", "image_url", "id", "vector")
_EXACTLY_ONE: list[Any] = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in _SOUGHT]


class Weights(BaseModel):
    """How much either order counts in rank `hybrid`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"clip": 1, "words": 0.5}]})

    clip: float = Field(1.0, strict=True, ge=0, le=100, allow_inf_nan=False, description="Of the ranks by cosine.")
    words: float = Field(1.0, strict=True, ge=0, le=100, allow_inf_nan=False, description="Of the ranks by words.")


class Sought(BaseModel):
    """What to look for: exactly one of these."""

    model_config = ConfigDict(extra="forbid")

    text: Text | None = None
    image: Base64Image | None = None
    image_url: ImageUrl | None = None
    id: Id | None = None
    vector: RawVector | None = None

    def given(self) -> list[str]:
        """The fields that name something to look for."""
        return [name for name in _SOUGHT if getattr(self, name) is not None]

    def part(self, weight: float = 1.0) -> Part:
        kind: Any = self.given()[0]
        value = getattr(self, kind)
        return Part(kind, tuple(value) if kind == "vector" else value, weight)


class WeightedPart(Sought):
    """One item of a combined query."""

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
        description="Below 0 for what pictures shall not be like.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self.given(), _SOUGHT)
        return self


class SearchOptions(BaseModel):
    """How to search, whatever is looked for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"limit": 20, "target": "both"}]})

    target: Target = "image"
    rank: Rank = "clip"
    weights: Weights | None = Field(None, description="For rank `hybrid`; both 1 unless told otherwise.")
    # Strict: a body has numbers where an address has only text.
    limit: Limit = Field(10, strict=True)
    offset: Offset = Field(0, strict=True)
    cursor: CursorToken | None = None
    filter: FilterExpression | None = None
    score_threshold: Threshold | None = Field(None, strict=True)
    diversity: Diversity = Field(0.0, strict=True)
    group_by: GroupBy | None = None
    group_size: GroupSize = Field(3, strict=True)

    @field_validator("filter")
    @classmethod
    def _is_understood(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        parse_filter(value)  # its FilterError passes through pydantic, and is answered as what it is
        return value

    @field_validator("group_by")
    @classmethod
    def _can_group(cls, value: str | None) -> str | None:
        if value is not None:
            check_groupable(value)
        return value

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        ordered = self._order()
        if self.weights is not None:
            if self.rank != "hybrid":
                _refuse("weights: only rank 'hybrid' weighs two orders; this is rank {rank}.", rank=repr(self.rank))
            if self.weights.clip == self.weights.words == 0:
                _refuse("weights: at least one of clip and words must be above 0.")
        if self.score_threshold is not None and ordered:
            _refuse(
                "score_threshold: cannot go with {ordered}. Hits are then in the order of ranks, and a hit with a low "
                "cosine may rightly stand before one with a high one.",
                ordered=ordered,
            )
        if self.diversity > 0 and (ordered or self.group_by):
            _refuse(
                "diversity: cannot go with {other}. It chooses among the neighbours of one vector, hit by hit.",
                other=ordered or "group_by",
            )
        if self.cursor is not None and self.offset:
            _refuse("offset: cannot go with cursor, which says itself where its page begins.")
        if self.offset >= WINDOW and (kind := ordered or (self.diversity and "diversity") or self.group_by):
            _refuse(
                "offset: must be below {window} with {kind}, an order that reaches no deeper.",
                window=WINDOW,
                kind=kind if kind != self.group_by else "group_by",
            )
        return self

    def _order(self) -> str | None:
        """What makes the order one of ranks; None where it is that of one vector's cosines."""
        if self.rank != "clip":
            return f"rank '{self.rank}'"
        return "target 'both'" if self.target == "both" else None

    def query(self, *parts: Part) -> Query:
        """The search for these parts."""
        weights = self.weights or Weights(clip=1, words=1)
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


class UploadOptions(SearchOptions):
    """How to search by an uploaded picture."""

    @model_validator(mode="after")
    def _check_rank(self) -> Self:
        if self.rank != "clip":
            _refuse("rank: {rank} looks for words, and a picture has none.", rank=repr(self.rank))
        return self


class SearchRequest(SearchOptions, Sought):
    """A search: exactly one of `text`, `image`, `image_url`, `id`, `vector` and `queries`, and how to search."""

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

    queries: list[WeightedPart] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PARTS,
        description="Several things at once: the unit vector of each times its weight, added up.",
        examples=[[{"text": "a dog"}, {"image_url": "https://example.org/park.jpg"}, {"text": "grass", "weight": -1}]],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.given() + (["queries"] if self.queries is not None else [])
        _exactly_one(given, (*_SOUGHT, "queries"))
        if self.rank == "words" and self.text is None:
            _refuse("rank: 'words' looks for the words of `text`, and there is {given} only.", given=repr(given[0]))
        if self.rank == "hybrid" and not self.as_query().words:
            _refuse("rank: 'hybrid' needs a text, of a weight above 0, whose words it can look for.")
        return self

    def as_query(self) -> Query:
        return self.query(*([each.part(each.weight) for each in self.queries] if self.queries else [self.part()]))


class BatchRequest(BaseModel):
    """Several searches at once."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"searches": [{"text": "a cat"}, {"text": "a dog", "limit": 3}]}]},
    )

    searches: list[SearchRequest] = Field(
        min_length=1,
        max_length=MAX_SEARCHES,
        description="Encoded as one batch and searched in one request. Without cursors: a batch is answered from one "
        "collection, and a cursor from its own.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for number, search in enumerate(self.searches):
            if search.cursor is not None:
                _refuse(
                    "searches.{number}.cursor: a batch takes none; follow cursors one by one at POST /v1/search.",
                    number=number,
                )
        parts = [part for search in self.searches for part in search.as_query().parts]
        pictures = sum(part.kind in ("image", "image_url") for part in parts)
        if len(parts) > MAX_BATCH_PARTS or pictures > MAX_BATCH_PICTURES:
            _refuse(
                "searches: {parts} things to look for, {pictures} of them pictures, are too many for one batch; it "
                "takes {most} and {most_pictures}.",
                parts=len(parts),
                pictures=pictures,
                most=MAX_BATCH_PARTS,
                most_pictures=MAX_BATCH_PICTURES,
            )
        return self


class HitBody(BaseModel):
    """One picture that was found."""

    id: str = Field(description="Point id: UUIDv5 of the URI, the same in every collection.")
    score: float = Field(
        description="Cosine of the query's vector and the hit's, the better one with target `both`; with rank `words` "
        "the BM25 score.",
        examples=[0.31],
    )
    relevance: float | None = Field(
        None,
        description="Where the cosine lies among this model's cosines of unrelated pairs: 0.99 is higher than 99 % of "
        "them; with target `both` that of the better one. Null where the collection keeps none, and for words, raw "
        "vectors, differences and mixtures of texts and pictures.",
        examples=[0.998],
    )
    uri: str = Field(description="Where the picture is.", examples=["s3://photos/2024/beach/0017.jpg"])
    caption: str | None = Field(None, description="What the captions file says of it.", examples=["a cat on the beach"])
    width: int | None = Field(None, description="Pixels, as displayed.", examples=[4032])
    height: int | None = Field(None, description="Pixels, as displayed.", examples=[3024])
    payload: dict[str, Any] = Field(
        description="All that the index knows of the object.", examples=[{"format": "jpeg", "tags": ["beach"]}]
    )


class GroupBody(BaseModel):
    """Hits that share a value of the field that they are grouped by."""

    value: str | int = Field(description="The value that they share.", examples=["beach"])
    hits: list[HitBody] = Field(description="The best of them, best first.")


class SearchResponse(BaseModel):
    """Hits, best first, and what found them."""

    hits: list[HitBody] = Field(description="Best first; with `group_by` the best one of each group.")
    groups: list[GroupBody] | None = Field(None, description="With `group_by`: groups, that of the best hit first.")
    model: str = Field(
        description="Name of the model that encoded the query and the collection.", examples=["ViT-B-32::openai"]
    )
    collection: str = Field(
        description="Physical name of the collection that was searched.",
        examples=["images__vit-b-32-openai__1f2e3d4c__0001"],
    )
    took_ms: float = Field(description="Time in the service, in milliseconds.", examples=[12.4])
    cursor: str | None = Field(
        None,
        description="For the next page; null on the last one. The order of one vector's cosines ends after "
        f"{MAX_DEPTH:,} hits, a fused one, words and groups after the best {WINDOW} of each list that goes into it.",
    )
    warnings: list[str] = Field(
        default_factory=list,
        description="What should be known of the answer: tokens cut from a long text, a language that the model does "
        "not know.",
        examples=[["The text is longer than the model reads: 25 tokens beyond the first 77 were left out."]],
    )


class BatchResponse(BaseModel):
    """The answer to each search of a batch, in their order."""

    results: list[SearchResponse] = Field(description="All from one model and collection.")


class StatsResponse(BaseModel):
    """What this replica serves."""

    index: str
    model: str
    fingerprint: str = Field(description="Hash of all that defines the model's vector space.")
    dimension: int
    collection: str
    points: int
    state: str
    created_at: str
    problem: str | None = Field(None, description="Why the replica serves something other than the live collection.")


class ErrorDetail(BaseModel):
    """What went wrong, in words and in a stable code."""

    code: str
    message: str
    hint: str
    request_id: str


class ErrorResponse(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def _exactly_one(given: list[str], known: tuple[str, ...]) -> None:
    if len(given) != 1:
        _refuse(
            "exactly one of {known} says what to look for; given are {given}.",
            known=", ".join(known),
            given=" and ".join(given) or "none of them",
        )


def _refuse(message: str, **values: Any) -> None:
    raise PydanticCustomError("combination", message, values)
