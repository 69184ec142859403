"""A re-index in a process of its own, for tests that end it by the kernel: its phases there, without Ray."""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.fixtures.options import reindex_options
from tests.indexing.inprocess import InProcess, Kept
from viewfinder.indexing.reach import Reach
from viewfinder.reindexing.report import ReindexReport
from viewfinder.reindexing.workflow import Reindex
from viewfinder.settings import Settings
from viewfinder.store import connect

# Torch takes many seconds to import: once, in the process that the others are forked from.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "torch", "open_clip"])


def start(reach: Reach, directory: Path, flags: Sequence[str] = ()) -> BaseProcess:
    """A job under way with this process's environment; its manifests, report and log go to `directory`."""
    directory.mkdir()
    process = _FORKS.Process(target=_reindex, args=(dict(os.environ), reach, directory, list(flags)))
    process.start()
    return process


def _reindex(environment: Mapping[str, str], reach: Reach, directory: Path, flags: Sequence[str]) -> None:
    os.environ.update(environment)
    with (directory / "log.txt").open("wb") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    settings = Settings.load()
    report = ReindexReport.open(settings, reach.access, str(directory / "report"))
    with connect(reach.address) as store, report:
        work = InProcess(reach, store, directory / "manifests", report.run_id, Kept())
        sys.exit(Reindex(reindex_options(flags), settings, reach, store, work, report).run())
