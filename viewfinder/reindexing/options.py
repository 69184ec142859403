"""The options of one re-index."""

from dataclasses import dataclass

from viewfinder.indexing.options import MAX_FAILURE_RATIO, PRUNE_MAX_RATIO

KEEP = 1
MAX_QUALITY_LOSS = 0.05


@dataclass(frozen=True)
class ReindexOptions:
    """The options of one re-index; everything else comes from the settings."""

    model: str | None = None
    index: str | None = None
    sources: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    evaluation_set: str | None = None
    keep: int = KEEP
    max_failure_ratio: float = MAX_FAILURE_RATIO
    prune_max_ratio: float = PRUNE_MAX_RATIO
    prune_captions: bool = False
    prune_captions_max_ratio: float = PRUNE_MAX_RATIO
    retry_failed: bool = False
    allow_loss: int = 0
    max_quality_loss: float = MAX_QUALITY_LOSS
    rebuild: bool = False
    when_model_changed: bool = False
    dry_run: bool = False
    report: str | None = None
