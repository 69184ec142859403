"""The bodies of the HTTP interface, as clients and /docs see them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_LIMIT = 200
MAX_OFFSET = 10_000
MAX_TEXT = 4_000

Text = Annotated[
    str, Field(min_length=1, max_length=MAX_TEXT, description="What the pictures shall show, in plain words.")
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Largest number of hits.")]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET, description="Hits to leave out, from the best.")]
Target = Annotated[
    Literal["image", "caption", "both"],
    Field(description="Compare with the pictures, with their captions, or with both (ranks fused)."),
]


class SearchRequest(BaseModel):
    """A search by text."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "a cat on the beach", "limit": 5}]},
    )

    text: Text
    target: Target = "image"
    limit: Limit = 10
    offset: Offset = 0
    filter: dict[str, Any] | None = Field(
        None,
        description='Conditions on the payload: `{"width": {"gte": 800}}`, joined by `and`, `or`, `not`.',
        examples=[{"and": [{"format": {"eq": "jpeg"}}, {"width": {"gte": 256}}]}],
    )
    score_threshold: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None, description="Leave out hits whose cosine is lower. Not with target `both`, whose order is by rank."
    )


class HitBody(BaseModel):
    """One picture that was found."""

    id: str = Field(description="Point id: UUIDv5 of the URI, the same in every collection.")
    score: float = Field(description="Cosine of the query's vector and the hit's.")
    uri: str = Field(description="Where the picture is.")
    caption: str | None = None
    width: int | None = Field(None, description="Pixels, as displayed.")
    height: int | None = Field(None, description="Pixels, as displayed.")
    payload: dict[str, Any] = Field(description="All that the index knows of the object.")


class SearchResponse(BaseModel):
    """Hits, best first, and what found them."""

    hits: list[HitBody]
    model: str = Field(description="Name of the model that encoded the query and the collection.")
    collection: str = Field(description="Physical name of the collection that was searched.")
    took_ms: float = Field(description="Time in the service, in milliseconds.")
    warnings: list[str] = Field(default_factory=list)


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
