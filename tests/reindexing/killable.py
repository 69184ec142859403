"""Run a re-index without Ray in its own process, for tests that kill it."""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.fixtures.options import reindex_options
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.indexing.report import Report
from viewfinder.indexing.run import Indexer
from viewfinder.reindexing.workflow import reindex
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import StoreAddress, connect

# Importing torch takes many seconds, so do it once in the process that the others are forked from.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "torch", "open_clip"])


def start(access: ObjectAccess, address: StoreAddress, directory: Path, flags: Sequence[str] = ()) -> BaseProcess:
    """Start a re-index with this process's environment; its manifests, report and log go to `directory`."""
    directory.mkdir()
    process = _FORKS.Process(target=_reindex, args=(dict(os.environ), access, address, directory, list(flags)))
    process.start()
    return process


def _reindex(
    environment: Mapping[str, str], access: ObjectAccess, address: StoreAddress, directory: Path, flags: Sequence[str]
) -> None:
    os.environ.update(environment)
    with (directory / "log.txt").open("wb") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    settings = Settings.load(
        write_batch_size=4, fetch_threads=4, device="cpu"
    )  # small batches, so that a kill can hit between them
    report = Report.open(settings, access, str(directory / "report"))
    with connect(address) as store, report, report.workspace() as workspace, InProcessExecutor(cores=1) as executor:
        indexer = Indexer(settings, store, executor, report.run_id, workspace, access=access)
        sys.exit(reindex(reindex_options(flags), settings, store, indexer, report).exit_status)
