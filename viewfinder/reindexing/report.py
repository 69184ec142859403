"""The result of a re-index, and the record that it is made from while the re-index runs."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from viewfinder.indexing.accounting import RunResult
from viewfinder.indexing.prune import PrunePlan
from viewfinder.reindexing.verify import Check

logger = logging.getLogger("viewfinder.reindex")


@dataclass(frozen=True)
class ReindexPlan:
    """What a re-index would do: `actions` counts the listed objects by the action they need."""

    step: str
    sources: Sequence[tuple[tuple[str, ...], str | None]]  # with their captions file
    actions: Mapping[str, int]
    gone: PrunePlan | None


@dataclass(frozen=True)
class ReindexResult:
    """The result of one re-index, as summary.json has it, but for `plan` and `report`.

    `collection`, `model` and `fingerprint` are those of the live collection afterwards. `retired` was live before,
    `dropped` are older ones, `refused` is a new collection that failed its checks. `plan` is set by a dry run, which
    writes no report; `report` is where the report is.
    """

    run_id: str
    outcome: str
    problem: str | None
    started_at: str
    seconds: float
    index: str
    collection: str
    model: str
    fingerprint: str
    counts: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    retired: str | None = None
    dropped: Sequence[str] = ()
    refused: str | None = None
    dry_run: bool = False
    plan: ReindexPlan | None = None
    report: str | None = None

    @property
    def exit_status(self) -> int:
        """Return 0 if it is done or there was nothing to do, 1 if it failed or was refused."""
        return 1 if self.problem else 0

    def as_summary(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        record = {"run_id": self.run_id, "state": "failed" if self.problem else "done"} | asdict(self)
        return {name: value for name, value in record.items() if name not in ("dry_run", "plan", "report")}


class ReindexRecord:
    """The phases, counts and checks of a re-index under way."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.checks: Sequence[Check] = ()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Log that a phase begins, and note how long it took."""
        logger.info("── %s", name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0.0) + time.monotonic() - began, 2)

    def add_round(self, results: Sequence[RunResult]) -> None:
        """Count one round over all sources: listed and failed as of the last round, unchanged as of the first.

        Indexed and pruned add up. So listed = unchanged + indexed + failed, unless objects changed between rounds.
        """
        before, now = self.counts, sum((Counter(each.counts) for each in results), Counter[str]())
        self.counts = {
            "listed": now["listed"],
            "unchanged": before.get("unchanged", now["unchanged"]),
            "indexed": before.get("indexed", 0) + now["indexed"],
            "failed": now["failed"],
            "pruned": before.get("pruned", 0) + now["pruned"],
        }

    def add_checks(self, checks: Sequence[Check]) -> None:
        """Keep the checks, and log those that failed."""
        self.checks = checks
        failed = [each for each in checks if each.passed is False]
        logger.info("%d checks, %d failed", len(checks), len(failed))
        for each in failed:
            logger.warning("%s is %s, must be %s", each.name, each.value, each.bound)
