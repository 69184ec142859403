"""Reports of killed runs, and reports that cannot be written."""

import json
from pathlib import Path

import pytest

from viewfinder.errors import SourceError, StoreError
from viewfinder.indexing.report import Report
from viewfinder.indexing.running import begin, end
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import Store, StoreAddress, open_local
from viewfinder.store.control import Control


def state(directory: Path) -> str:
    return str(json.loads((directory / "summary.json").read_text())["state"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({"VIEWFINDER_DATA_DIR": str(tmp_path)})


def opened(settings: Settings, directory: Path) -> Report:
    return Report.open(settings, ObjectAccess(), str(directory))


def run(settings: Settings, store: Store, directory: Path) -> Report:
    report = opened(settings, directory)
    begin(report, store, "images")
    return report


def test_the_report_of_a_killed_run_is_marked_by_the_next_one(settings: Settings, tmp_path: Path) -> None:
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        run(settings, store, tmp_path / "killed")
        assert state(tmp_path / "killed") == "running"
        begin(opened(settings, tmp_path / "other"), store, "another index")
        assert state(tmp_path / "killed") == "running"
        run(settings, store, tmp_path / "next")
        assert (state(tmp_path / "killed"), state(tmp_path / "next")) == ("interrupted", "running")
        assert [run_id for run_id, _ in store.control("images").running()] != []


def test_a_run_that_reports_where_the_killed_one_did_is_not_marked_itself(settings: Settings, tmp_path: Path) -> None:
    """Scheduled jobs write all reports to one place: after a kill, the next run was "interrupted" while it worked."""
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        run(settings, store, tmp_path / "report")
        last = run(settings, store, tmp_path / "report")
        assert state(tmp_path / "report") == "running"
        assert {run_id for run_id, _ in store.control("images").running()} == {last.run_id}


def test_a_run_whose_end_cannot_be_recorded_has_ended(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its complete report was replaced by one that says "failed" and nothing else."""

    def refuse(*_: object) -> None:
        raise StoreError("Qdrant was restarted.")

    monkeypatch.setattr(Control, "forget_running", refuse)
    with open_local(StoreAddress(data_dir=tmp_path)) as store, opened(settings, tmp_path / "report") as report:
        end(report, store, "images")
    assert "could not be recorded that run" in caplog.text


def test_a_report_that_says_how_its_run_ended_is_kept(settings: Settings, tmp_path: Path) -> None:
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        failed = run(settings, store, tmp_path / "failed")
        failed.fail(MemoryError())
        gone = run(settings, store, tmp_path / "gone")
        (tmp_path / "gone" / "summary.json").unlink()
        last = run(settings, store, tmp_path / "last")
        assert state(tmp_path / "failed") == "failed"
        assert not (tmp_path / "gone" / "summary.json").exists()
        assert {run_id for run_id, _ in store.control("images").running()} == {last.run_id}
        end(last, store, "images")
        assert list(store.control("images").running()) == []
        assert gone.run_id != failed.run_id


def test_a_run_of_another_process_that_is_alive_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        alive = run(settings, store, tmp_path / "alive")
        control = store.control("images")
        ((_, record),) = control.running()
        control.record_running(alive.run_id, {**record, "pid": 1})
        run(settings, store, tmp_path / "next")
        assert state(tmp_path / "alive") == "running"
        assert alive.run_id in dict(control.running())


def test_a_report_that_cannot_be_written_does_not_hide_the_error(settings: Settings, tmp_path: Path) -> None:
    report = opened(settings, tmp_path / "report")
    (tmp_path / "report" / "summary.json").unlink()
    (tmp_path / "report").rmdir()
    (tmp_path / "report").touch()
    with pytest.raises(SourceError, match="the real cause"), report:
        raise SourceError("the real cause")
