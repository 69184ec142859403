"""What one search asks for, as plain values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from viewfinder.store.schema import VectorName

Target = Literal["image", "caption", "both"]
Rank = Literal["clip", "words", "hybrid"]
PartKind = Literal["text", "image", "image_url", "id", "vector"]


@dataclass(frozen=True)
class Part:
    """One thing to look for: a text, a picture (base64 or bytes), its address, a point's id, or D numbers."""

    kind: PartKind
    value: str | bytes | tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Query:
    """One search. The HTTP bodies check which fields go together; here they do."""

    parts: tuple[Part, ...]
    target: Target = "image"
    rank: Rank = "clip"
    weights: tuple[float, float] = (1.0, 1.0)  # of the model's ranks and of the words', for rank `hybrid`
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
        """The words to look for in captions: those of all texts that count for a hit."""
        return " ".join(str(part.value) for part in self.parts if part.kind == "text" and part.weight > 0)

    @property
    def targets(self) -> tuple[VectorName, ...]:
        return ("image", "caption") if self.target == "both" else (self.target,)

    def digest(self) -> str:
        """What a cursor belongs to: a hash of all that decides the order of hits, so not of `limit`.

        But for `diversity`: how many candidates it chooses from depends on the limit.
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
