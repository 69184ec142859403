"""A search as plain values: its parts, and how to order, group and page the hits."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from viewfinder.client.requests import (
    DEFAULT_COLLAPSE_THRESHOLD,
    DEFAULT_GROUP_SIZE,
    DEFAULT_LIMIT,
    MAX_HITS,
    Collapse,
    Rank,
    Target,
    last_position,
)
from viewfinder.store.conditions import KeyFilter
from viewfinder.store.schema import VectorName

# The order of images without a query.
DEFAULT_ORDER = "-last_modified"

PartKind = Literal["text", "image", "image_url", "id", "vector"]


@dataclass(frozen=True)
class QueryPart:
    """One thing to search by: a text, an image (base64 or bytes), its URL, the id of a point, or a raw vector [D]."""

    kind: PartKind
    value: str | bytes | tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """The parts to search by, and how to order, group and page the hits. Without parts it lists images.

    `within` is the filter of the API key, which no field of a request sets: the searcher does. It also sets `index` to
    that of its index.
    """

    parts: tuple[QueryPart, ...]
    target: Target = "image"
    rank: Rank = "clip"
    weights: tuple[float, float] = (1.0, 1.0)  # of the order by cosine and of the order by words, for rank `hybrid`
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    cursor: str | None = None
    filter: Mapping[str, Any] | None = None
    order_by: str | None = None
    min_relevance: float | None = None
    score_threshold: float | None = None
    diversity: float = 0.0
    group_by: str | None = None
    group_size: int = DEFAULT_GROUP_SIZE
    collapse: Collapse | None = None
    collapse_threshold: float = DEFAULT_COLLAPSE_THRESHOLD
    index: str | None = None
    within: KeyFilter = None

    @property
    def order(self) -> tuple[str, bool] | None:
        """The field whose values give the order, and True for descending; None for an order by score or rank."""
        given = self.order_by if self.parts else self.order_by or DEFAULT_ORDER
        return None if given is None else (given.removeprefix("-"), given.startswith("-"))

    @property
    def words(self) -> str:
        """The words to look for in captions: those of all texts with a weight above 0."""
        return " ".join(str(part.value) for part in self.parts if part.kind == "text" and part.weight > 0)

    @property
    def lacks_vector(self) -> bool:
        """True for a query that nothing is encoded for: by words alone, or without parts."""
        return self.rank == "words" or not self.parts

    @property
    def targets(self) -> tuple[VectorName, ...]:
        return ("image", "caption") if self.target == "both" else (self.target,)

    @property
    def ranked_by(self) -> str | None:
        """The option that makes hits ordered by rank, as text; None if they are ordered by the cosine of one vector."""
        if self.rank != "clip":
            return f"rank '{self.rank}'"
        return "target 'both'" if self.target == "both" else None

    @property
    def last_position(self) -> int:
        """The number of hits, or groups, after which the pages end; without parts, the maximum of `offset`."""
        if not self.parts and not self.collapse:
            return MAX_HITS
        return last_position(
            self.limit,
            target=self.target,
            rank=self.rank,
            order_by=self.order_by,
            diversity=self.diversity,
            group_by=self.group_by,
            collapse=self.collapse,
        )

    def digest(self) -> str:
        """A hash of everything that decides the order of hits, which a cursor is bound to.

        `limit` is part of it only with `diversity`: the number of candidates depends on the limit.
        """
        order = {
            "index": self.index,
            "parts": [(part.kind, _digest(part.value), part.weight) for part in self.parts],
            "target": self.target,
            "rank": self.rank,
            "weights": self.weights if self.rank == "hybrid" else None,
            "filter": self.filter or None,
            "within": self.within,
            "order": self.order,
            "min_relevance": self.min_relevance,
            "score_threshold": self.score_threshold,
            "diversity": (self.diversity, self.limit) if self.diversity else None,
            "group_by": (self.group_by, self.group_size) if self.group_by else None,
            "collapse": (self.collapse, self.collapse == "near" and self.collapse_threshold) if self.collapse else None,
        }
        return _digest(json.dumps(order, sort_keys=True))[:16]


def _digest(value: str | bytes | tuple[float, ...]) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(content).hexdigest()
