"""Reports of runs that were killed: the next run over the same index marks them as interrupted."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from viewfinder.errors import ConfigurationError, ObjectError, StoreError
from viewfinder.indexing.machine import process_space
from viewfinder.indexing.report import Report
from viewfinder.store import Store

logger = logging.getLogger("viewfinder.index")

PROBLEM = (
    "The run ended without a report, most likely because it was killed. What it had indexed is kept. (A run on another "
    "machine that is still working replaces this report when it ends.)"
)


def begin(report: Report, store: Store, index: str) -> None:
    """Record that this run has begun, and mark the reports of earlier runs that were killed."""
    control = store.control(index)
    ended = []
    for run_id, record in control.running():
        if run_id != report.run_id and not _is_running(record):
            _mark(report, run_id, str(record["report"]))
            ended.append(run_id)
    control.forget_running(ended)
    control.record_running(
        report.run_id, {"report": report.destination, "machine": process_space(), "pid": os.getpid()}
    )


def end(report: Report, store: Store, index: str) -> None:
    """Record that this run has ended, after its report was written."""
    try:
        store.control(index).forget_running([report.run_id])
    except StoreError as error:  # the next run finds a report that does not say "running"
        logger.warning("It could not be recorded that run %s has ended: %s", report.run_id, error)


def _mark(report: Report, run_id: str, location: str) -> None:
    """Mark the report at `location` as interrupted if it says that its run is still running."""
    try:
        summary: Any = json.loads(report.read_summary(location))
        # Of that run: if all runs write to one place, this one has begun its report there already.
        if isinstance(summary, dict) and (summary.get("run_id"), summary.get("state")) == (run_id, "running"):
            report.write_summary({**summary, "state": "interrupted", "problem": PROBLEM}, location)
            logger.warning("Run %s was interrupted: %s", run_id, location)
    except (ObjectError, ConfigurationError, ValueError) as error:
        logger.info("The report of run %s cannot be read or changed: %s", run_id, error)


def _is_running(record: Mapping[str, Any]) -> bool:
    """True if the run is another process of this machine. Runs of this process have ended: it begins a new one."""
    pid = int(record["pid"])
    if record["machine"] != process_space() or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
