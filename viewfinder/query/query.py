"""One search as plain values, checked by `viewfinder.query.request`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from viewfinder.client.requests import Rank, Target
from viewfinder.store.schema import VectorName

PartKind = Literal["text", "image", "image_url", "id", "vector"]


@dataclass(frozen=True)
class QueryPart:
    """One thing to search by: a text, an image (base64 or bytes), its URL, the id of a point, or a raw vector [D]."""

    kind: PartKind
    value: str | bytes | tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """The parts to search by, and how to order, group and page the hits."""

    parts: tuple[QueryPart, ...]
    target: Target = "image"
    rank: Rank = "clip"
    weights: tuple[float, float] = (1.0, 1.0)  # of the order by cosine and of the order by words, for rank `hybrid`
    limit: int = 10
    offset: int = 0
    cursor: str | None = None
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None
    diversity: float = 0.0
    group_by: str | None = None
    group_size: int = 3

    @property
    def words(self) -> str:
        """The words to look for in captions: those of all texts with a weight above 0."""
        return " ".join(str(part.value) for part in self.parts if part.kind == "text" and part.weight > 0)

    @property
    def targets(self) -> tuple[VectorName, ...]:
        return ("image", "caption") if self.target == "both" else (self.target,)

    @property
    def ranked_by(self) -> str | None:
        """The option that makes hits ordered by rank, as text; None if they are ordered by the cosine of one vector."""
        if self.rank != "clip":
            return f"rank '{self.rank}'"
        return "target 'both'" if self.target == "both" else None

    def digest(self) -> str:
        """A hash of everything that decides the order of hits, which a cursor is bound to.

        `limit` is part of it only with `diversity`: the number of candidates depends on the limit.
        """
        order = {
            "parts": [(part.kind, _digest(part.value), part.weight) for part in self.parts],
            "target": self.target,
            "rank": self.rank,
            "weights": self.weights if self.rank == "hybrid" else None,
            "filter": self.filter or None,
            "score_threshold": self.score_threshold,
            "diversity": (self.diversity, self.limit) if self.diversity else None,
            "group_by": (self.group_by, self.group_size) if self.group_by else None,
        }
        return _digest(json.dumps(order, sort_keys=True))[:16]


def _digest(value: str | bytes | tuple[float, ...]) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(content).hexdigest()
