"""The answers of a search service as records, serialized by the service and parsed by the client.

Unknown fields from a newer service are ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from viewfinder.client.requests import MAX_COLLAPSED, MAX_SIMILAR

PixelCount = Annotated[int | None, Field(description="Pixels, as displayed.", examples=[4032])]
_CollectionName = Annotated[
    str,
    Field(
        description="Physical name of the collection that was searched.",
        examples=["images__vit-b-32-openai__1f2e3d4c__0001"],
    ),
]
Payload = Annotated[
    Mapping[str, Any],
    Field(description="Everything the index stores about the image.", examples=[{"format": "jpeg", "tags": ["beach"]}]),
]
Uri = Annotated[str, Field(description="Where the image is.", examples=["s3://photos/2024/beach/0017.jpg"])]
Caption = Annotated[
    str | None, Field(description="The caption from the captions file.", examples=["a cat on the beach"])
]


@dataclass(frozen=True, kw_only=True)
class SimilarImage:
    """An image that is collapsed into a hit."""

    id: str
    uri: Uri
    cosine: Annotated[
        float | None,
        Field(description="Cosine of the two images; null with collapse `exact`.", examples=[0.983]),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One image found."""

    id: Annotated[str, Field(description="Point id: UUIDv5 of the URI, the same in every collection.")]
    score: Annotated[
        float | None,
        Field(
            description="Cosine of the vectors of query and hit, the higher one with target `both`; with rank `words` "
            "the BM25 score; null without a query.",
            examples=[0.31],
        ),
    ]
    relevance: Annotated[
        float | None,
        Field(
            description="The share of unrelated pairs with a lower cosine under this model: 0.99 is above 99 % of "
            "them; with target `both` the share of pairs whose better target is worse. Null where the collection "
            "stores no such baseline, and for words, raw vectors and several different parts.",
            examples=[0.998],
        ),
    ] = None
    uri: Uri
    caption: Caption = None
    width: PixelCount = None
    height: PixelCount = None
    payload: Payload
    collapsed: Annotated[
        int,
        Field(
            description="With `collapse`: how many of the compared hits show the same or a similar image, and are left "
            "out in favour of this one.",
            examples=[4],
        ),
    ] = 0
    similar: Annotated[
        tuple[SimilarImage, ...],
        Field(description=f"The first {MAX_SIMILAR} of them, in the order of the hits."),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Hits that share one value of the field in `group_by`."""

    value: Annotated[str | int, Field(description="The shared value.", examples=["beach"])]
    hits: Annotated[tuple[Hit, ...], Field(description="The best hits with this value, best first.")]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """One page of hits, in their order, and where they were found. Iterates over its hits."""

    hits: Annotated[
        tuple[Hit, ...],
        Field(description="Best first, or in the order of `order_by`; with `group_by` the best hit of each group."),
    ]
    groups: Annotated[
        tuple[Group, ...] | None, Field(description="With `group_by`: the groups, that of the best hit first.")
    ] = None
    model: Annotated[
        str,
        Field(
            description="Name of the model that encoded the query and the collection.", examples=["ViT-B-32::openai"]
        ),
    ]
    collection: _CollectionName
    took_ms: Annotated[float, Field(description="Time to answer, in milliseconds.", examples=[12.4])]
    cursor: Annotated[
        str | None,
        Field(
            description="For the next page; null on the last one. Ordered by the cosine of one vector, hits end after "
            "10,000; fused orders, words and groups end after the best 500 of each list. Without a query they end "
            "after the last image; with `collapse` after the images that were compared."
        ),
    ] = None
    truncated: Annotated[
        bool,
        Field(
            description="True if more images are above the minimum than `order_by` orders, so that some are not among "
            f"the hits of any page; with `collapse` on the last page, if there are more hits than the first "
            f"{MAX_COLLAPSED:,}, which were compared."
        ),
    ] = False
    warnings: Annotated[
        tuple[str, ...],
        Field(
            description="For example tokens cut from a long text, or a language that the model does not know.",
            examples=[["The text is longer than the model reads: 25 tokens beyond the first 77 were left out."]],
        ),
    ] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, kw_only=True)
class ErrorDetail:
    """An error in words and with a stable code."""

    code: str
    message: str
    hint: str = ""
    request_id: str = ""
    type: Annotated[str, Field(description="The kind of error, by OpenAI's names.")] = ""
    param: Annotated[str | None, Field(description="The field of the request, if one is wrong.")] = None


@dataclass(frozen=True, kw_only=True)
class ErrorResponse:
    """The body of every error response."""

    error: ErrorDetail


@dataclass(frozen=True, kw_only=True)
class FailedSearch:
    """The error of one search of a batch; the others are answered."""

    status: Annotated[int, Field(description="The HTTP status that the search alone would have.")]
    error: ErrorDetail


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """The answer to each search of a batch, in their order."""

    results: Annotated[
        tuple[SearchResult | FailedSearch, ...],
        Field(description="All from one model and collection; an error in place of the result of a refused search."),
    ]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The collection that is searched, and its size."""

    index: str
    model: str
    fingerprint: Annotated[str, Field(description="Hash of everything that defines the model's vector space.")]
    dimension: int
    collection: str
    points: int
    captions: Annotated[int, Field(description="Points that have a caption.")]
    state: str
    created_at: str
    sources: Annotated[tuple[str, ...], Field(description="Where the images come from.")] = ()
    fields: Annotated[
        Mapping[str, str],
        Field(description="Fields of filters and their types; those of captions files are `meta.NAME`."),
    ] = field(default_factory=dict)
    relevance: Annotated[
        bool, Field(description="True if hits have a relevance: the collection stores its baselines.")
    ] = False
    words: Annotated[
        bool, Field(description="True if captions can be searched by words, as ranks `words` and `hybrid` do.")
    ] = True
    last_run: Annotated[str | None, Field(description="Id of the last run of the index job.")] = None
    store: Annotated[
        str, Field(description="Hash of the store's location: equal for programs that use the same store.")
    ] = ""
    behind: Annotated[
        str | None, Field(description="Why the service searches another collection than the live one.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class IndexState:
    """An index of the service, with its live model; the model of an index that does not exist yet is null."""

    name: Annotated[str, Field(description="A value of `index` in requests.", examples=["images"])]
    model: str | None = None
    collection: Annotated[str | None, Field(description="Physical name of the collection that is searched.")] = None
    in_memory: Annotated[
        bool, Field(description="True if the replica that answers has the model in memory; else a search loads it.")
    ] = False
    behind: Annotated[
        str | None, Field(description="Why the index cannot be searched, or not in its live collection.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class IndexStates:
    """The indexes that the key may see."""

    indexes: tuple[IndexState, ...]
    default: Annotated[str | None, Field(description="The index of requests that name none.")] = None


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The unit vector of one text or image."""

    vector: Annotated[tuple[float, ...], Field(description="Of unit length.")]
    cut: Annotated[int, Field(description="Tokens beyond the model's context, which were ignored.")] = 0


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Vectors, in the order of the texts and images of the request."""

    texts: tuple[Embedding, ...]
    images: tuple[Embedding, ...]
    model: Annotated[str, Field(description="Name of the model.")]
    fingerprint: Annotated[
        str, Field(description="Hash of the model's vector space: do not compare vectors of two fingerprints.")
    ]
    dimension: int
    took_ms: Annotated[float, Field(description="Time to answer, in milliseconds.")] = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ranked candidate."""

    index: Annotated[int, Field(description="Its position in the request, from 0.")]
    text: Annotated[str | None, Field(description="The text, if texts are the candidates.")] = None
    score: Annotated[float, Field(description="Cosine of text and image.")]
    logit: Annotated[float, Field(description="logit_scale x cosine + logit_bias, with the model's own constants.")]
    probability: Annotated[float, Field(description="Softmax of the logits over the candidates.")]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The candidates, most probable first; ties in the order of the request. Iterates over its candidates.

    The probabilities compare the candidates with each other: where none fits, they still sum to 1. For a model trained
    with a sigmoid (SigLIP), `1 / (1 + exp(-logit))` is the probability of a pair by itself.
    """

    candidates: tuple[Candidate, ...]
    model: Annotated[str, Field(description="Name of the model.")]
    fingerprint: Annotated[str, Field(description="Hash of the model's vector space.")]
    took_ms: Annotated[float, Field(description="Time to answer, in milliseconds.")] = 0.0
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True, kw_only=True)
class Image:
    """Everything the index stores about one image."""

    id: str
    uri: Uri
    caption: Caption = None
    width: PixelCount = None
    height: PixelCount = None
    payload: Payload
    collection: _CollectionName


@dataclass(frozen=True, kw_only=True)
class FacetValue:
    """One value of a field."""

    value: str | int | float | bool
    count: Annotated[int, Field(description="Number of images that have it.")]


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The most frequent values of a field."""

    field: str
    values: tuple[FacetValue, ...]
    collection: _CollectionName


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model known by name; what only its configuration tells is null."""

    name: str
    dimension: Annotated[int | None, Field(description="Numbers of a vector.")] = None
    image_size: Annotated[int | None, Field(description="Pixels per side.")] = None
    context_length: Annotated[int | None, Field(description="Tokens of a text, start and end marks included.")] = None
    languages: str
    licence: Annotated[str, Field(description="Licence of the weights.")]
    good_for: str
    matryoshka: Annotated[bool, Field(description="Vectors may be cut to their first numbers.")] = False


@dataclass(frozen=True, kw_only=True)
class LiveModel:
    """A live model by one of its names, in OpenAI's format."""

    id: Annotated[str, Field(description="A value of `model` for `/v1/embeddings` and `/v1/rerank`.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="When its collection was made, in seconds since 1970.")]
    owned_by: str = "viewfinder"


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models that an index can be made with; for OpenAI's clients the live ones in `data`."""

    models: tuple[Model, ...]
    live: Annotated[str | None, Field(description="The model that answers queries now.")] = None
    object: Literal["list"] = "list"
    data: Annotated[tuple[LiveModel, ...], Field(description="The names of the live models of all indexes.")] = ()


IndexingOutcome = Literal["indexed", "unchanged", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class IndexedImage:
    """The outcome of one image in a request to index images."""

    id: Annotated[str | None, Field(description="Null for an upload that could not be stored because it is no image.")]
    uri: Annotated[str | None, Field(description="Where the image is; of an upload, where it was stored.")]
    outcome: Annotated[
        IndexingOutcome,
        Field(description="`indexed` and `unchanged` images are found by the next search."),
    ]
    reason: Annotated[
        str | None,
        Field(description="Why it was skipped or has failed, as in the reports of runs.", examples=["truncated"]),
    ] = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class IndexedImages:
    """The outcome of each image, in the order of the request."""

    images: tuple[IndexedImage, ...]
    indexed: Annotated[int, Field(description="Images with this outcome, as the following three.")]
    unchanged: int
    skipped: int
    failed: int
    run_id: Annotated[str | None, Field(description="Id of the run, as in payloads; null if no image was looked at.")]
    model: Annotated[str, Field(description="Name of the model.")]
    collection: _CollectionName
    took_ms: Annotated[float, Field(description="Time to answer, in milliseconds.")] = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The result of taking an image down. It stays out of the index until the takedown is lifted."""

    id: str
    uri: Annotated[str, Field(description="Where the image is; empty if the index never held it.")]
    removed: Annotated[bool, Field(description="True if a collection of the index held the image until now.")]
    before: Annotated[bool, Field(description="True if it was already taken down.")] = False
    nearest: Annotated[
        tuple[str, ...], Field(description="If the index has no such image: the URIs that are most like `uri`.")
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """The result of lifting a takedown."""

    id: str
    restored: Annotated[
        bool, Field(description="True if there was a takedown. The next index run adds the image again.")
    ]
    nearest: Annotated[
        tuple[str, ...], Field(description="If there was none: the URIs of takedowns that are most like `uri`.")
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """An image that was taken down; index runs leave it out until the takedown is lifted."""

    id: str
    uri: str
    at: Annotated[str, Field(description="Time of the takedown, ISO 8601 in UTC.")]


@dataclass(frozen=True, kw_only=True)
class Takedowns:
    """One page of takedowns."""

    takedowns: tuple[Takedown, ...]
    more: Annotated[bool, Field(description="True if there are further takedowns after this page.")] = False
