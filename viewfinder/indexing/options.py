"""The options of one index run."""

from dataclasses import dataclass

MAX_FAILURE_RATIO = 0.01
PRUNE_MAX_RATIO = 0.2


@dataclass(frozen=True)
class IndexOptions:
    """The options of one run; everything else comes from the settings."""

    sources: tuple[str, ...]
    captions: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    index: str | None = None
    model: str | None = None
    max_objects: int | None = None
    prune: bool = False
    prune_max_ratio: float = PRUNE_MAX_RATIO
    dry_run: bool = False
    report: str | None = None
    max_failure_ratio: float = MAX_FAILURE_RATIO
