"""The result of a re-index, and the record kept while it runs."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from viewfinder.indexing.accounting import MAX_WARNED, RunResult
from viewfinder.indexing.prune import PrunePlan
from viewfinder.reindexing.verify import Check
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.reindex")


@dataclass(frozen=True)
class ReindexPlan:
    """The plan of a dry run: `actions` counts the listed objects by the action they need."""

    step: str
    sources: Mapping[str, Sequence[str]]  # with their captions files
    actions: Mapping[str, int]
    gone: PrunePlan | None


@dataclass(frozen=True)
class ReindexResult:
    """The result of one re-index: the content of summary.json, plus `plan` and `report`.

    `collection`, `model` and `fingerprint` describe the live collection afterwards. `retired` is the previous live
    collection, `dropped` are older ones, and `refused` is a new collection that failed its checks. `plan` is set by a
    dry run, which writes no report. `report` is the location of the report.
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
    skipped: Mapping[str, int] = field(default_factory=dict)
    captions: Mapping[str, int] = field(default_factory=dict)  # pruned
    failures: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)  # indexed images by what is wrong with them
    warned: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the first of their URIs, by kind
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
        """0 if the re-index succeeded or had nothing to do, 1 if it failed or was refused."""
        return 1 if self.problem else 0

    def as_summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        record = {"run_id": self.run_id, "state": "failed" if self.problem else "done"} | asdict(self)
        return {name: value for name, value in record.items() if name not in ("dry_run", "plan", "report")}


class ReindexRecord:
    """The phases, counts and checks of a running re-index."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.skips: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.pruned_captions = 0
        self.warnings: Counter[str] = Counter()
        self.warned: tuple[str, ...] = ()
        self.checks: Sequence[Check] = ()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Log the start of a phase, and record its duration."""
        logger.info("── %s", name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0.0) + time.monotonic() - began, 2)

    def add_round(self, result: RunResult) -> None:
        """Add the counts of one round over all sources.

        `listed`, `skipped` and `failed` are those of the last round; `indexed`, `pruned`, the pruned captions and the
        warnings are sums. An object that two rounds have indexed counts once, as far as the numbers tell: listed =
        unchanged + indexed + skipped + failed, if the last round adds up.
        """
        before, now = self.counts, Counter(result.counts)
        there = now["unchanged"] + now["indexed"]
        indexed = min(before.get("indexed", 0) + now["indexed"], there)
        self.counts = {
            "listed": now["listed"],
            "unchanged": there - indexed,
            "indexed": indexed,
            "skipped": now["skipped"],
            "failed": now["failed"],
            "pruned": before.get("pruned", 0) + now["pruned"],
        }
        tally = result.outcome.tally
        self.skips, self.failures = tally.skips, tally.failure_counts
        self.pruned_captions += result.pruned_captions
        self.warnings.update(tally.warnings)
        self.warned = tuple(dict.fromkeys([*self.warned, *tally.warned]))[:MAX_WARNED]

    def add_checks(self, checks: Sequence[Check]) -> None:
        """Keep the checks, and log those that failed."""
        self.checks = checks
        failed = [each for each in checks if each.passed is False]
        logger.info("%s, %d failed", counted(len(checks), "check"), len(failed))
        for each in failed:
            logger.warning("%s is %s, must be %s", each.name, each.value, each.bound)
