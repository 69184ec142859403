"""The options of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

MAX_COLLECTIONS = 2


@dataclass(frozen=True)
class EvaluateOptions:
    """The collections to measure and the queries to measure them with.

    Without `collections` the live one is measured. Without `evaluation_set` captions search for their own images.
    """

    collections: tuple[str, ...] = ()
    evaluation_set: str | None = None
    index: str | None = None
    out: Path = Path("evaluation")
