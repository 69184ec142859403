"""The record of a run that ended early, or cannot be written."""

import errno
import json
import sqlite3
from pathlib import Path

import pytest

from viewfinder.errors import ConfigurationError, ViewfinderError
from viewfinder.indexing.report import Report
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess


@pytest.mark.parametrize(
    ("error", "problem"),
    [(KeyboardInterrupt(), "The run was interrupted."), (MemoryError(), "MemoryError()"), (OSError("full"), "full")],
)
def test_a_run_that_ended_early_says_why(error: BaseException, problem: str, tmp_path: Path) -> None:
    settings = Settings.load({"VIEWFINDER_DATA_DIR": str(tmp_path)})
    with (
        pytest.raises(type(error)),
        Report.open(settings, ObjectAccess.of(settings), str(tmp_path / "report")),
    ):
        raise error
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert (summary["state"], summary["problem"]) == ("failed", problem)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk_is_one_message(error: Exception, tmp_path: Path) -> None:
    settings = Settings.load({"VIEWFINDER_DATA_DIR": str(tmp_path)})
    report = Report.open(settings, ObjectAccess.of(settings), None, dry_run=True)
    with (
        pytest.raises(ViewfinderError, match=r"disk of this machine is full: .*VIEWFINDER_DATA_DIR"),
        report.workspace(),
    ):
        raise error
    with pytest.raises(OSError, match="other"), report.workspace():
        raise OSError(errno.EIO, "other")


def test_directories_of_killed_runs_are_removed_and_those_of_running_ones_kept(tmp_path: Path) -> None:
    """A run was taken for dead if this machine had no process of its number: it ran in another container."""
    settings = Settings.load({"VIEWFINDER_DATA_DIR": str(tmp_path)})
    report = Report.open(settings, ObjectAccess.of(settings), None, dry_run=True)
    killed = tmp_path / "tmp" / "run-killed"
    killed.mkdir(parents=True)
    (killed / "manifest").touch()
    with report.workspace() as first, report.workspace() as second:
        assert not killed.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    settings = Settings.load({"VIEWFINDER_DATA_DIR": str(tmp_path)})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be written: Could not write 'file://.*/file/summary\.json'"):
        Report.open(settings, ObjectAccess.of(settings), str(tmp_path / "file"))
