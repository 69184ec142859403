"""The record of a run that ended early, or cannot be written."""

import json
from pathlib import Path

import pytest

from viewfinder.errors import ConfigurationError
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


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    settings = Settings.load({"VIEWFINDER_DATA_DIR": str(tmp_path)})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be written: Could not write 'file://.*/file/summary\.json'"):
        Report.open(settings, ObjectAccess.of(settings), str(tmp_path / "file"))
