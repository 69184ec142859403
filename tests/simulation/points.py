"""Points as they are stored, and what holds for each of them alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.simulation.models import image_vector, text_vector


@dataclass(frozen=True)
class Point:
    """A point. `number` is that of the content it was made from; sources have no slash at their end."""

    number: int
    caption: str | None
    sources: frozenset[str]
    payload: Mapping[str, Any]
    vectors: Mapping[str, Any]

    @classmethod
    def of(cls, record: Any) -> "Point":
        payload = record.payload
        sources = frozenset(source.rstrip("/") for source in payload["sources"])
        return cls(payload["width"], payload.get("caption") or None, sources, payload, record.vector)

    def fault(self, model: str) -> str | None:
        """Return what is wrong with its vectors; None if nothing is."""
        if not np.allclose(self.vectors["image"], image_vector(model, self.number), atol=1e-5):
            return "has a vector that is not that of its content"
        if {self.caption is not None, "caption" in self.vectors, self.payload["has_caption"]} == {True, False}:
            return f"has the caption {self.caption!r}, but its vector says otherwise"
        if self.caption and not np.allclose(self.vectors["caption"], text_vector(model, self.caption), atol=1e-5):
            return f"has a vector that is not that of its caption {self.caption!r}"
        return None
