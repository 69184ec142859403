"""The report of a run: summary.json and failures.jsonl."""

import errno
import json
import logging
import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from viewfinder import clock
from viewfinder.errors import ConfigurationError, ObjectError, StoreError, ViewfinderError
from viewfinder.footprint import EMBEDDED_MAX_IMAGES
from viewfinder.images.loading import TRUNCATED_TAIL
from viewfinder.indexing.accounting import STAGE_ADVICE, RunResult, Stage, skip_counts, too_many_failures
from viewfinder.indexing.prune import PrunePlan
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri
from viewfinder.store import Collection, Store
from viewfinder.store import directory as embedded_store
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.index")

_LOCK = "lock"


@dataclass(frozen=True)
class IndexPlan:
    """The result of a dry run: objects by action (`viewfinder.indexing.rows`), and the effect of a prune.

    `problems` say what would be left out.
    """

    actions: Mapping[str, int]
    prune: PrunePlan | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """The content of summary.json. `report` is its location; `problem` is None unless the run failed."""

    run_id: str
    state: str
    problem: str | None
    started_at: str
    seconds: float
    index: str
    collection: str
    model: str
    fingerprint: str
    sources: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]  # listed = unchanged + indexed + skipped + failed; pruned
    skipped: Mapping[str, int]  # by reason
    images: int  # encoded
    captions: Mapping[str, int]
    failures: Mapping[str, int]  # by reason
    warnings: Mapping[str, int]  # by kind; these images are indexed
    warned: Mapping[str, Sequence[str]]  # the first of their URIs, by kind
    stages: Sequence[Mapping[str, Any]]
    bottleneck: str | None
    advice: str | None
    report: str


class Report:
    """Writes the report of one run to a directory or an S3 prefix."""

    def __init__(
        self, destination: str, data_dir: Path, access: ObjectAccess, run_id: str, *, dry_run: bool = False
    ) -> None:
        self._dry_run = dry_run
        self.problems: list[str] = []
        self.run_id = run_id
        self.destination = destination
        self._data_dir = data_dir
        self._access = access
        self._began = time.monotonic()
        self.started_at = clock.timestamp()
        self._is_finished = False

    @classmethod
    def open(cls, settings: Settings, access: ObjectAccess, destination: str | None, *, dry_run: bool = False) -> Self:
        """Start a report; raises `ConfigurationError` if the destination cannot be written."""
        run_id = new_run_id()
        destination = canonical_uri(destination or str(settings.data_dir / "runs" / run_id))
        report = cls(destination, settings.data_dir, access, run_id, dry_run=dry_run)
        if not dry_run:
            report.write_summary({"run_id": run_id, "state": "running"})
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None or self._dry_run or self._is_finished:
            return
        try:
            self.fail(error)
        except Exception as failure:  # whatever it is, it must not hide the error that ended the run
            logger.warning("%s", failure)

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return round(time.monotonic() - self._began, 2)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A local directory for manifests, removed afterwards. Also removes those that killed runs left behind."""
        parent = self._data_dir / "tmp"
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"VIEWFINDER_DATA_DIR: {str(parent)!r} cannot be created: {error.strerror}."
            ) from error
        for left in parent.glob("run-*"):
            with suppress(StoreError):  # it belongs to another user
                if (lock := embedded_store.try_lock(left / _LOCK)) is not None:
                    with lock:
                        shutil.rmtree(left, ignore_errors=True)
        try:
            made = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
        except OSError as error:
            raise ConfigurationError(f"VIEWFINDER_DATA_DIR: no directory can be made in {parent}: {error}.") from error
        # The lock ends with the process, whichever machine or container it runs on. The directory has its final name
        # only once it is locked.
        with embedded_store.try_lock(made / _LOCK) or nullcontext():
            directory = made.rename(parent / f"run-{made.name.removeprefix('new-')}")
            try:
                yield directory
            except (OSError, sqlite3.OperationalError) as error:
                if not _is_full(error):
                    raise
                raise ViewfinderError(
                    f"A disk of this machine is full: {error}. Free some space for {directory.parent} and "
                    f"{tempfile.gettempdir()}, or set VIEWFINDER_DATA_DIR and TMPDIR to another disk, and run it again."
                ) from error
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def finish(self, store: Store, collection: Collection, result: RunResult, max_failure_ratio: float) -> Summary:
        """Write the report, record the counts with the collection, and return the summary."""
        outcome, counts = result.outcome, result.counts
        tally = outcome.tally
        self.write_failures(store, collection, tally.failed)
        problem = joined([_run_problem(counts, max_failure_ratio), *result.problems, *self.problems])
        summary = Summary(
            run_id=self.run_id,
            state="failed" if problem else "done",
            problem=problem,
            started_at=self.started_at,
            seconds=self.seconds,
            index=collection.index,
            collection=collection.name,
            model=collection.metadata.model_name,
            fingerprint=collection.metadata.fingerprint,
            sources=[dict(source) for source in result.manifest.sources],
            counts=counts,
            skipped=tally.skips,
            images=tally.images,
            captions={"encoded": tally.captions, "cut": tally.captions_cut, "pruned": result.pruned_captions},
            failures=tally.failure_counts,
            warnings=tally.warnings,
            warned={TRUNCATED_TAIL: tally.warned} if tally.warned else {},
            stages=[_stage_record(each) for each in outcome.stages],
            bottleneck=outcome.bottleneck,
            advice=STAGE_ADVICE.get(outcome.bottleneck or ""),
            report=self.destination,
        )
        store.collections.update_metadata(collection.name, counts=counts | skip_counts(tally.skips))
        if unwritten := self.try_write_summary(asdict(summary)):
            summary = replace(summary, state="failed", problem=joined([problem, unwritten]))
        self._is_finished = True
        # Logged here because the log of the store's holder is not shown.
        with suppress(StoreError):
            if store.address.url is None and store.points.count(collection) > EMBEDDED_MAX_IMAGES:
                logger.warning(embedded_store.LARGE_STORE_ADVICE)
        return summary

    def fail(self, error: BaseException) -> None:
        """Write that the run ended early, and why."""
        problem = "The run was interrupted." if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)
        self.write_summary(
            {"run_id": self.run_id, "state": "failed", "problem": problem, "started_at": self.started_at}
        )

    def write_summary(self, summary: Mapping[str, Any], location: str | None = None) -> None:
        """Replace summary.json, of this report or of the one at `location`. Raises `ConfigurationError`."""
        try:
            with tempfile.NamedTemporaryFile() as file:
                file.write(json.dumps(summary, indent=2, ensure_ascii=False).encode())
                file.flush()
                self._copy(location or self.destination, "summary.json", Path(file.name))
        except OSError as error:  # a full disk
            raise ConfigurationError(
                f"The report cannot be written: {error} (temporary files are in {tempfile.gettempdir()})."
            ) from error

    def try_write_summary(self, summary: Mapping[str, Any]) -> str | None:
        """Replace summary.json at the end of a run; return why it could not be written."""
        try:
            self.write_summary(summary)
        except ConfigurationError as error:
            return str(error)
        return None

    def read_summary(self, location: str) -> bytes:
        """The content of the summary.json of another report. Raises `ObjectError`."""
        with Objects(self._access) as objects, objects.open(f"{location.rstrip('/')}/summary.json") as file:
            return file.read()

    def write_failures(self, store: Store, collection: Collection, expected: int) -> None:
        """Copy this run's failures from the store to failures.jsonl.

        `expected` is the number of failed objects. If the file cannot be written, the reason is added to `problems`:
        the result of the run is known by now, and must not be lost.
        """
        written = 0
        try:
            with tempfile.NamedTemporaryFile() as file:
                for failure in store.control(collection.index).failures_of_run(self.run_id):
                    written += 1
                    line = {
                        "uri": failure.uri,
                        "stage": failure.stage,
                        "reason": failure.reason,
                        "message": failure.message,
                    }
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                self._copy(self.destination, "failures.jsonl", Path(file.name))
        except ConfigurationError as error:
            self.problems.append(str(error))
        except OSError as error:  # a full disk
            self.problems.append(f"failures.jsonl cannot be written: {error}.")
        if written < expected:
            # Another run of the index failed on the same objects at the same time: its report lists them.
            logger.warning("%s failed, but failures.jsonl lists %d", counted(expected, "object"), written)

    def _copy(self, location: str, name: str, path: Path) -> None:
        try:
            with Objects(self._access) as objects:
                objects.write(f"{location.rstrip('/')}/{name}", path)
        except ObjectError as error:
            raise ConfigurationError(f"The report cannot be written: {error.message}") from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk is full" in str(error)


def new_run_id() -> str:
    """Return the id of a run that begins now: later ids are greater."""
    return f"{clock.now():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def joined(problems: Iterable[str | None]) -> str | None:
    """The problems in one text; None if there are none."""
    return " ".join(dict.fromkeys(filter(None, problems))) or None


def _run_problem(counts: Mapping[str, int], max_failure_ratio: float) -> str | None:
    """The reason why the run counts as failed, or None."""
    accounted = counts["unchanged"] + counts["indexed"] + counts["skipped"] + counts["failed"]
    if accounted != counts["listed"]:
        return (
            f"The run listed {counted(counts['listed'], 'object')}, but accounts for {accounted:,}. This is a bug in "
            "viewfinder. Run the job again to index the missing objects."
        )
    return too_many_failures(counts, max_failure_ratio)


def _stage_record(stage: Stage) -> dict[str, Any]:
    record = asdict(stage) | {"rate": stage.rate, "capacity": stage.capacity}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in record.items()}
