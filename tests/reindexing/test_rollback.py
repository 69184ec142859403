"""The collections that a switch leaves: kept for a rollback, gone back to, held, released, dropped."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fixtures.indexing import NAMES, Index
from tests.indexing.pictures import fill
from viewfinder.errors import ConfigurationError, StoreBusyError
from viewfinder.reindexing import hold, operations
from viewfinder.reindexing.upgrade_lock import Lease
from viewfinder.settings import Settings

pytestmark = pytest.mark.slow


def test_a_former_collection_of_the_wanted_model_is_caught_up_and_not_built_anew(index: Index) -> None:
    first = index.live
    index.reindex()
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    (index.world.bucket / "02.jpg").unlink()
    assert index.reindex("--model", index.models[0]) == 0
    assert index.live.name == first.name
    assert index.summary["counts"]["indexed"] == 1
    assert index.summary["counts"]["pruned"] == 1
    assert set(index.world.points) == {*NAMES, "new.jpg"} - {"02.jpg"}
    assert index.states == {"first 1": "live", "other 2": "retired"}


def test_a_source_that_left_the_index_is_gone_from_a_former_collection_too(index: Index, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ["x.jpg", "y.jpg"], first_seed=80)
    index.world.sync(source=str(tmp_path / "elsewhere"))
    index.reindex("--source", index.world.source)
    assert len(index.world.points) == 12
    assert index.reindex("--model", index.models[0], "--prune-max-ratio", "0.5") == 0
    assert len(index.world.points) == 12
    assert len(index.live.metadata.sources) == 1


def test_the_last_collections_are_kept_and_older_ones_dropped_after_their_grace(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert index.reindex("--rebuild", "--keep", "2") == 0
    assert index.states == {"first 1": "retired", "other 2": "retired", "other 3": "retired", "other 4": "live"}
    assert index.summary["dropped"] == [], "within the time of grace"
    monkeypatch.setenv("VIEWFINDER_GRACE_S", "0")
    monkeypatch.setenv("VIEWFINDER_REFRESH_S", "0.001")
    long_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    for each in index.store.collections.all("images")[:-1]:
        index.store.collections.update_metadata(each.name, retired_at=long_ago)
    assert index.reindex("--rebuild", "--keep", "1") == 0
    assert index.states == {"other 4": "retired", "other 5": "live"}


def test_a_rollback_holds_scheduled_runs_until_it_is_released(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    first = index.live
    index.reindex()
    second = index.live
    settings = Settings.load()
    assert operations.roll_back(index.store, settings) == 0
    said = capsys.readouterr().out
    assert first.name in said
    assert "1 run has written" in " ".join(said.split())
    assert index.live.name == first.name
    assert index.states == {"first 1": "live", "other 2": "retired"}

    assert index.reindex() == 0
    assert index.summary["outcome"] == "held after a rollback"
    assert index.live.name == first.name

    assert operations.release(index.store, settings) == 0
    assert index.reindex() == 0
    assert index.live.name == second.name


def test_a_model_that_is_asked_for_lifts_the_hold_once_it_is_live(index: Index) -> None:
    index.reindex()
    operations.roll_back(index.store, Settings.load())
    assert index.reindex("--model", index.models[0]) == 0
    assert hold.standing(index.store.control("images")), "it is the model that was rolled back to"
    assert index.reindex("--model", index.models[1]) == 0
    assert hold.standing(index.store.control("images")) is None
    assert index.live.metadata.model_name == index.models[1]


def test_a_hold_that_a_killed_job_could_not_lift_any_more_is_lifted_by_its_rerun(index: Index) -> None:
    first = index.live
    index.reindex()
    hold.place(index.store.control("images"), first.name, index.live.name)
    assert index.reindex("--model", index.models[1], "--dry-run") == 0
    assert hold.standing(index.store.control("images"))
    assert index.reindex("--model", index.models[1]) == 0
    assert hold.standing(index.store.control("images")) is None


def test_there_is_no_way_back_without_a_former_collection(index: Index) -> None:
    with pytest.raises(ConfigurationError, match="no former collection"):
        operations.roll_back(index.store, Settings.load())
    assert hold.standing(index.store.control("images")) is None


def test_a_rollback_waits_for_no_build_but_says_who_builds(index: Index) -> None:
    index.reindex()
    with Lease(index.store.control("images"), "a build"), pytest.raises(StoreBusyError, match="run a build"):
        operations.roll_back(index.store, Settings.load())


def test_the_status_shows_every_collection_and_the_hold(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    index.reindex()
    operations.roll_back(index.store, Settings.load())
    capsys.readouterr()
    assert operations.show(index.store, Settings.load()) == 0
    said = capsys.readouterr().out
    for part in ("retired", "live", "yes", "12", "Held since"):
        assert part in said
