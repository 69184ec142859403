"""What a search service answers, as records. A field that a newer service adds is passed over."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One picture that was found.

    `score` is the cosine of its vector and the query's (with `rank="words"` BM25). `relevance` says where that lies
    among the scores that this model gives to pictures and queries that have nothing to do with each other: 1 is above
    them all. It is None where that is not known.
    """

    id: str
    score: float
    relevance: float | None = None
    uri: str
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    payload: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The best hits that share one value of the field of `group_by`."""

    value: str | int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Hits, best first, and what found them. Goes through its hits like a list of them.

    With `cursor` the next page can be asked for; None says that this was the last. With `group_by` the `groups` hold
    the hits by value, and `hits` the best of each.
    """

    hits: tuple[Hit, ...]
    groups: tuple[Group, ...] | None = None
    model: str
    collection: str
    took_ms: float
    cursor: str | None = None
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What is being searched; `problem` says why it is something other than the live collection, where it is.

    `captions` counts the points that have one, `fields` are those of the captions file (`meta.NAME`) with their types,
    and `relevance` says whether hits tell theirs.
    """

    index: str
    model: str
    fingerprint: str
    dimension: int
    collection: str
    points: int
    captions: int
    state: str
    created_at: str
    sources: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    relevance: bool = False
    last_run: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """One text or picture as the model sees it: a unit vector, blind to `cut` tokens beyond the model's context."""

    vector: tuple[float, ...]
    cut: int = 0


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Texts and pictures in the order given, as vectors of `dimension` numbers.

    `fingerprint` stands for the model's vector space: compare no vectors of two.
    """

    texts: tuple[Embedding, ...]
    images: tuple[Embedding, ...]
    model: str
    fingerprint: str
    dimension: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of those that were ranked: its place in the question (from 0), and `text` where it is one.

    `score` is the cosine, `logit` what the model makes of it, `probability` the softmax of the logits of all.
    """

    index: int
    text: str | None = None
    score: float
    logit: float
    probability: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates, most probable first. Goes through them like a list."""

    candidates: tuple[Candidate, ...]
    model: str
    fingerprint: str
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True, kw_only=True)
class Image:
    """All that the index knows of one picture."""

    id: str
    uri: str
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    payload: Mapping[str, Any]
    collection: str


@dataclass(frozen=True, kw_only=True)
class FacetValue:
    """One value of a field, and how many pictures have it."""

    value: str | int | float | bool
    count: int


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The most frequent values of one field."""

    field: str
    values: tuple[FacetValue, ...]
    collection: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is known of a model; a figure is None where only its configuration tells."""

    name: str
    dimension: int | None = None
    image_size: int | None = None
    context_length: int | None = None
    languages: str
    licence: str
    good_for: str


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models that the service knows by name, and which of them it searches with."""

    models: tuple[Model, ...]
    live: str | None = None


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A takedown: `removed` says whether the picture was in the index; kept out of it from now on it is either way."""

    id: str
    uri: str
    removed: bool


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """The end of a takedown: `restored` says whether there was one."""

    id: str
    restored: bool


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """A picture that was taken down: reruns and re-indexes leave it out until the takedown is lifted."""

    id: str
    uri: str
    at: str
