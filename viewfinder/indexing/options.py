"""The options of one index run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads options before anything slow is imported
    from viewfinder.store import Collection
    from viewfinder.store.recorded import Recorded

MAX_FAILURE_RATIO = 0.01
PRUNE_MAX_RATIO = 0.2


@dataclass(frozen=True)
class IndexOptions:
    """The options of one run; everything else comes from the settings.

    With `recorded`, a source is read with the patterns and captions files that are recorded for it, and these are not
    recorded again. `captions_from` is the collection whose captions a new one takes over for objects that no captions
    file names; with `captions_over` only points that one of these runs wrote last get them. With `check_takedowns`
    every takedown of the index is checked again after the run.
    """

    sources: tuple[str, ...]
    captions: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    index: str | None = None
    model: str | None = None
    max_objects: int | None = None
    prune: bool = False
    prune_max_ratio: float = PRUNE_MAX_RATIO
    prune_captions: bool = False
    prune_captions_max_ratio: float = PRUNE_MAX_RATIO
    retry_failed: bool = False
    dry_run: bool = False
    report: str | None = None
    max_failure_ratio: float = MAX_FAILURE_RATIO
    recorded: "Recorded | None" = None
    captions_from: "Collection | None" = None
    captions_over: frozenset[str] | None = None
    check_takedowns: bool = True
