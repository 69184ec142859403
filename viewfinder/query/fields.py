"""The fields of a search in JSON, with their bounds and descriptions: what the OpenAPI schema says about each."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from viewfinder.client.requests import (
    DEFAULT_COLLAPSE_THRESHOLD,
    MAX_COLLAPSED,
    MAX_GROUP_SIZE,
    MAX_HITS,
    MAX_LIMIT,
    MAX_ORDERED,
    MAX_RANKED_HITS,
    Collapse,
    Rank,
    Target,
)
from viewfinder.query.cursor import MAX_CURSOR
from viewfinder.query.validation import FORMS, visible_text

MAX_QUERY_TEXT = 4_000
MAX_PARTS = 16
MAX_SEARCHES = 64
MAX_BATCH_PARTS = 256
MAX_BATCH_IMAGES = 64

VISIBLE_PATTERN = r"\S"
ID_PATTERN = r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
FORMS[ID_PATTERN] = "the id of an image, as '0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a' in a hit"

IndexName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100,
        description="Name of the index, as in `GET /v1/indexes`. Without it: the first of those.",
        examples=["images"],
    ),
]
Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_QUERY_TEXT,
        description="Describes the images to find. Tokens beyond the model's context are ignored, with a warning.",
        examples=["a cat on the beach"],
        # Only documented here: `visible_text` refuses more.
        json_schema_extra={"pattern": VISIBLE_PATTERN},
    ),
    AfterValidator(visible_text),
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
        pattern=ID_PATTERN,
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
        fail_fast=True,  # thousands of errors take thousands of times as long to build as one, which is enough
        description="A vector of the live model's dimension (`/v1/stats`), of any length above zero.",
        examples=[[0.12, -0.03, 0.99]],
    ),
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Maximum number of hits, or of groups.", examples=[10])]
Offset = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_HITS,
        description=f"Number of hits (or groups) to skip, from the best. Below {MAX_RANKED_HITS} unless hits are "
        f"ordered by the cosine of one vector, below {MAX_COLLAPSED:,} with `collapse`; with `diversity` also below "
        "the number of its candidates. `cursor` pages without repeating or missing hits.",
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
OrderBy = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="A payload field of numbers or dates, `-` before it for descending: hits come in its order, equal "
        "values by id, images without a value last. With a query it needs `min_relevance`, `score_threshold` or rank "
        f"`words`, and orders the best {MAX_ORDERED:,} of these hits (of each target). Without a query all images that "
        "match the filter are listed, by default in the order `-last_modified`.",
        examples=["-last_modified"],
    ),
]
MinRelevance = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Leave out hits with a lower `relevance`. Only for queries whose hits have one.",
        examples=[0.95],
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
GroupSize = Annotated[int, Field(ge=1, le=MAX_GROUP_SIZE, description="Maximum number of hits in a group.")]
CollapseField = Annotated[
    Collapse,
    Field(
        description="Show one hit for images that are the same (`exact`: equal `image_hash`, whatever their metadata) "
        "or similar (`near`: a cosine of at least `collapse_threshold` with a hit before). The first in the order of "
        "hits stands for the others, which it counts in `collapsed` and lists in `similar`. No page shows an image "
        f"that an earlier one stands for. The first {MAX_COLLAPSED:,} hits are compared (of fused orders the best "
        f"{MAX_RANKED_HITS} of each list); if there are more, `truncated` is true on the last page. Not with "
        "`group_by`."
    ),
]
CollapseThreshold = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="For collapse `near`: the lowest cosine of images that are similar; "
        f"{DEFAULT_COLLAPSE_THRESHOLD} by default.",
        examples=[0.95],
    ),
]
