"""What a run leaves behind: summary.json, failures.jsonl, and a table on standard output."""

import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.table import Table

from viewfinder.cli.output import stdout
from viewfinder.cluster.pipeline import WIDENED_BY, Pass, Stage
from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.indexing.prune import Gone
from viewfinder.settings import Settings
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.objects import ObjectAccess, Objects, canonical_uri
from viewfinder.store import Collection, Store
from viewfinder.store.directory import ADVICE, COMFORTABLE_POINTS

logger = logging.getLogger("viewfinder.index")

# Reasons shown in the table; failures.jsonl has them all.
_REASONS_SHOWN = 8
_RUNS_KEPT = 50
_DRY_RUN_WORDS = {
    "index": "would be indexed",
    "caption": "would get a new caption",
    "sources": "unchanged, found in a further source",
    "unchanged": "unchanged",
    "withheld": "taken down, would stay out",
    "failed": "known failures of unchanged content",
}


class Report:
    """The record of one run, kept in a directory or under an S3 prefix."""

    def __init__(
        self, destination: str, data_dir: Path, access: ObjectAccess, run_id: str, *, dry_run: bool = False
    ) -> None:
        self._dry_run = dry_run
        self.run_id = run_id
        self.destination = destination
        self._data_dir = data_dir
        self._access = access
        self._began = time.monotonic()
        self._started_at = _now()

    @classmethod
    def open(cls, settings: Settings, access: ObjectAccess, destination: str | None, *, dry_run: bool = False) -> Self:
        """A report under way; raises `ConfigurationError` where its destination cannot be written."""
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        destination = canonical_uri(destination or str(settings.data_dir / "runs" / run_id))
        report = cls(destination, settings.data_dir, access, run_id, dry_run=dry_run)
        if not dry_run:
            report._write("summary.json", json.dumps({"run_id": run_id, "state": "running"}).encode())
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is not None and not self._dry_run:
            self.fail(error)

    @property
    def seconds(self) -> float:
        """How long the run has been under way."""
        return round(time.monotonic() - self._began, 2)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A directory on this machine for the manifest; gone afterwards, and with it what killed runs left."""
        parent = self._data_dir / "tmp"
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"VIEWFINDER_DATA_DIR: {str(parent)!r} cannot be made: {error.strerror}."
            ) from error
        for left in parent.glob("run-*-*"):
            if not _alive(int(left.name.split("-")[1])):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"run-{os.getpid()}-", dir=parent) as directory:
            yield Path(directory)

    def begin(self, store: Store, collection: Collection, manifest: Manifest) -> None:
        """Note the run and its sources with the collection, so that a re-index can read them all again."""
        sources = merged_sources(collection.metadata.sources, manifest.sources)
        runs = list(dict.fromkeys([*collection.metadata.runs, self.run_id]))[-_RUNS_KEPT:]
        store.collections.update_metadata(collection.name, sources=sources, runs=runs)

    def finish(self, store: Store, collection: Collection, done: Pass, max_failure_ratio: float) -> int:
        """Write the report, print the summary and say with which status the job ends."""
        manifest, outcome, counts = done.manifest, done.outcome, done.counts
        tally = outcome.tally
        reasons = self._write_failures(store, collection, tally.failed)
        problem = _problem(counts, max_failure_ratio)
        summary = {
            "run_id": self.run_id,
            "state": "failed" if problem else "done",
            "problem": problem,
            "started_at": self._started_at,
            "seconds": self.seconds,
            "index": collection.index,
            "collection": collection.name,
            "model": collection.metadata.model_name,
            "fingerprint": collection.metadata.fingerprint,
            "sources": [dict(source) for source in manifest.sources],
            "counts": counts,
            "withheld": tally.withheld,  # taken down; among the unchanged
            "pictures": tally.pictures,
            "captions": {"encoded": tally.captions, "cut": tally.captions_cut},
            "failures": reasons,
            "stages": [_stage_record(each) for each in outcome.stages],
            "slowest_stage": outcome.slowest,
            "widened_by": WIDENED_BY.get(outcome.slowest or ""),
        }
        self._write("summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
        store.collections.update_metadata(collection.name, counts=counts)
        _print(summary, self.destination)
        # Said here: what the store's holder logs, nobody sees.
        if store.address.url is None and store.points.count(collection) > COMFORTABLE_POINTS:
            logger.warning(ADVICE)
        if problem:
            print(f"error: {problem}", file=sys.stderr)
        return 1 if problem else 0

    def dry_run(self, actions: Mapping[str, int], gone: Gone | None) -> int:
        """Print what a run would do with so many objects."""
        table = Table(title="Dry run: nothing was changed", show_header=False, title_justify="left")
        table.add_row("listed", f"{sum(actions.values()):,}")
        for action, count in sorted(actions.items()):
            table.add_row(_DRY_RUN_WORDS[action], f"{count:,}")
        if gone is not None:
            table.add_row("would be pruned", f"{gone.deleted:,} of {gone.points:,} points")
        stdout().print(table)
        return 0

    def fail(self, error: BaseException) -> None:
        """Note that the run ended early, and why."""
        record = {"run_id": self.run_id, "state": "failed", "problem": str(error), "started_at": self._started_at}
        self._write("summary.json", json.dumps(record, indent=2, ensure_ascii=False).encode())

    def _write_failures(self, store: Store, collection: Collection, expected: int | None) -> dict[str, int]:
        """Stream this run's failures from the store into failures.jsonl; the count by reason."""
        reasons: Counter[str] = Counter()
        with tempfile.NamedTemporaryFile() as file:
            for failure in store.control(collection.index).failures_of_run(self.run_id):
                reasons[failure.reason] += 1
                line = {
                    "uri": failure.uri,
                    "stage": failure.stage,
                    "reason": failure.reason,
                    "message": failure.message,
                }
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            self._copy("failures.jsonl", Path(file.name))
        if expected is not None and reasons.total() != expected:
            # Another run of the same index met the same objects meanwhile, and its notes took the place of ours.
            logger.warning("%d objects failed, but failures.jsonl names %d", expected, reasons.total())
        return dict(reasons.most_common())

    def _write(self, name: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self._copy(name, Path(file.name))

    def _copy(self, name: str, path: Path) -> None:
        try:
            with Objects(self._access) as objects:
                objects.write(f"{self.destination.rstrip('/')}/{name}", path)
        except ObjectError as error:
            raise ConfigurationError(f"The report cannot be written: {error.message}") from error


def merged_sources(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a re-index must read: each source once, as last indexed in full.

    A run with `--limit` does not take the place of a full one, and one without `--captions` leaves those recorded.
    """
    sources = {str(each["source"]): dict(each) for each in before}
    for each in now:
        known = sources.get(str(each["source"]))
        if known is None or "limit" in known or "limit" not in each:
            captions = {"captions": known["captions"]} if known and "captions" in known else {}
            sources[str(each["source"])] = captions | dict(each)
    return list(sources.values())


def _problem(counts: Mapping[str, int], max_failure_ratio: float) -> str | None:
    """Why the job counts as failed, or None."""
    accounted = counts["unchanged"] + counts["indexed"] + counts["failed"]
    if accounted != counts["listed"]:
        return (
            f"{counts['listed']:,} objects were listed, but {accounted:,} are accounted for. This is a fault of "
            "viewfinder; run the job again, which indexes what is missing."
        )
    if counts["listed"] and counts["failed"] / counts["listed"] > max_failure_ratio:
        return (
            f"{counts['failed']:,} of {counts['listed']:,} objects failed, more than --max-failure-ratio "
            f"{max_failure_ratio:g} allows. All others are indexed; failures.jsonl names each with its reason."
        )
    return None


def _stage_record(stage: Stage) -> dict[str, Any]:
    record = asdict(stage) | {"rate": stage.rate, "capacity": stage.capacity}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in record.items()}


def _print(summary: Mapping[str, Any], destination: str) -> None:
    console = stdout()
    counts, failures = summary["counts"], summary["failures"]
    table = Table(title=f"Run {summary['run_id']}: {summary['state']}", show_header=False, title_justify="left")
    table.add_row("collection", summary["collection"])
    table.add_row("model", summary["model"])
    table.add_row("objects", ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if summary["withheld"]:
        table.add_row("withheld", f"{summary['withheld']:,} of the unchanged, because they were taken down")
    if failures:
        table.add_row("failures", reasons_shown(failures))
    rate = counts["indexed"] / summary["seconds"] if summary["seconds"] else 0.0
    table.add_row("time", f"{summary['seconds']:,.1f} s, {rate:,.1f} indexed a second with start-up")
    if summary["slowest_stage"]:
        table.add_row("slowest stage", f"{summary['slowest_stage']}; wider with {summary['widened_by']}")
    table.add_row("report", destination)
    console.print(table)


def reasons_shown(failures: Mapping[str, int]) -> str:
    """The most frequent reasons and how often each was met."""
    shown = [f"{count:,} {reason}" for reason, count in list(failures.items())[:_REASONS_SHOWN]]
    return ", ".join(shown) + (", …" if len(failures) > _REASONS_SHOWN else "")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
