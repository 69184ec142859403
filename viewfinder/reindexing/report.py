"""What a re-index leaves behind: summary.json with phases, checks and counts, failures.jsonl, tables on stdout."""

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from viewfinder.cli.output import stdout
from viewfinder.cluster.pipeline import Pass
from viewfinder.indexing.report import Report, reasons_shown
from viewfinder.reindexing.verify import Check
from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.reindex")

_WORDS = {True: "ok", False: "FAILED", None: "-"}


class ReindexReport(Report):
    """The record of one re-index, filled while it goes on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._phases: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._checks: Sequence[Check] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Objects by what became of them over all rounds, as `round` counts them."""
        return dict(self._counts)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say that a phase begins, and note how long it took."""
        logger.info("── %s", name)
        began = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] = round(self._phases.get(name, 0.0) + time.monotonic() - began, 2)

    def round(self, passes: Sequence[Pass]) -> None:
        """Count one round over all sources: listed and failed as of the last, unchanged as of the first, others added.

        So listed = unchanged + indexed + failed, unless something has changed under way.
        """
        before, now = self._counts, sum((Counter(each.counts) for each in passes), Counter[str]())
        self._counts = {
            "listed": now["listed"],
            "unchanged": before.get("unchanged", now["unchanged"]),
            "indexed": before.get("indexed", 0) + now["indexed"],
            "failed": now["failed"],
            "pruned": before.get("pruned", 0) + now["pruned"],
        }

    def verified(self, checks: Sequence[Check]) -> None:
        """Keep the checks, and show them."""
        self._checks = checks
        table = Table(
            "check", "result", "figure", "wanted", "", title="Verification", title_justify="left", box=SIMPLE_HEAD
        )
        for each in checks:
            figure = "" if each.figure is None else f"{each.figure:,}"
            table.add_row(each.name, _WORDS[each.passed], figure, each.wanted, each.note)
        stdout().print(table)

    def done(self, store: Store, live: Collection, *, outcome: str, problem: str | None = None, **more: Any) -> int:
        """Write the report, print the summary and say with which status the job ends."""
        reasons = self._write_failures(store, live, None)
        summary = {
            "run_id": self.run_id,
            "state": "failed" if problem else "done",
            "problem": problem,
            "outcome": outcome,
            "started_at": self._started_at,
            "seconds": self.seconds,
            "index": live.index,
            "collection": live.name,
            "model": live.metadata.model_name,
            "fingerprint": live.metadata.fingerprint,
            "counts": self._counts,
            "failures": reasons,
            "phases": self._phases,
            "checks": [asdict(each) for each in self._checks],
            **more,
        }
        self._write("summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
        self._print_done(summary)
        if problem:
            print(f"error: {problem}", file=sys.stderr)
        return 1 if problem else 0

    def _print_done(self, summary: dict[str, Any]) -> None:
        table = Table(title=f"Run {self.run_id}: {summary['state']}", show_header=False, title_justify="left")
        table.add_row("outcome", summary["outcome"])
        table.add_row("live", summary["collection"])
        table.add_row("model", summary["model"])
        if self._counts:
            table.add_row("objects", ", ".join(f"{count:,} {name}" for name, count in self._counts.items()))
        if summary["failures"]:
            table.add_row("failures", reasons_shown(summary["failures"]))
        phases = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in self._phases.items())
        table.add_row("time", f"{summary['seconds']:,.1f} s" + (f": {phases}" if phases else ""))
        table.add_row("report", self.destination)
        stdout().print(table)
