"""Retired collections: reused, rolled back to, dropped; and the pause of scheduled runs after a rollback."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import fill
from viewfinder import clock
from viewfinder.errors import ConfigurationError, StoreBusyError
from viewfinder.reindexing.promote import retired_collections
from viewfinder.reindexing.rollback import RollbackPause, pause_runs, read_pause, release, roll_back
from viewfinder.reindexing.upgrade_lock import UpgradeLock
from viewfinder.settings import Settings

pytestmark = pytest.mark.slow


def test_a_retired_collection_of_the_wanted_model_is_updated_instead_of_built(index: Index) -> None:
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


def test_a_source_that_left_the_index_also_leaves_a_reused_collection(index: Index, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ["x.jpg", "y.jpg"], first_seed=80)
    index.world.sync(source=str(tmp_path / "elsewhere"))
    index.reindex("--source", index.world.source)
    assert len(index.world.points) == 12
    assert index.reindex("--model", index.models[0], "--prune-max-ratio", "0.5") == 0
    assert len(index.world.points) == 12
    assert len(index.live.recorded.sources) == 1


def test_the_last_collections_are_kept_and_older_ones_dropped_after_the_grace_time(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert index.reindex("--rebuild", "--keep", "2") == 0
    assert index.states == {"first 1": "retired", "other 2": "retired", "other 3": "retired", "other 4": "live"}
    assert index.summary["dropped"] == [], "within the grace time"
    monkeypatch.setenv("VIEWFINDER_GRACE_S", "0")
    monkeypatch.setenv("VIEWFINDER_REFRESH_S", "0.001")
    long_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    for each in index.store.collections.all("images")[:-1]:
        index.store.collections.update_metadata(each.name, retired_at=long_ago)
    assert index.reindex("--rebuild", "--keep", "1") == 0
    assert index.states == {"other 4": "retired", "other 5": "live"}


def test_a_rollback_returns_to_the_last_retired_collection_whatever_the_clocks_say(index: Index) -> None:
    """The machine of the second run was an hour behind, so the collection it retired looked older."""
    names = [index.live.name]
    index.reindex("--rebuild")
    names.append(index.live.name)
    with clock.using(lambda: datetime.now(UTC) - timedelta(hours=1)):
        assert index.reindex("--rebuild", "--keep", "2") == 0
    assert [each.name for each in retired_collections(index.store, index.world.index)] == [names[1], names[0]]
    assert roll_back(Settings.load(index=index.world.index), index.store).collection == names[1]


def test_a_rollback_pauses_scheduled_runs_until_release(index: Index) -> None:
    first = index.live
    index.reindex()
    second = index.live
    settings = Settings.load()
    result = roll_back(settings, index.store)
    assert (result.collection, result.model) == (first.name, index.models[0])
    assert (result.rolled_back_from, result.missed_runs) == (second.name, 1)
    assert result.retired_at != ""
    assert index.live.name == first.name
    assert index.states == {"first 1": "live", "other 2": "retired"}

    assert index.reindex() == 0
    assert index.summary["outcome"] == "paused after a rollback"
    assert index.live.name == first.name

    ended = release(settings, index.store)
    assert ended is not None
    assert (ended.collection, ended.rolled_back_from) == (first.name, second.name)
    assert release(settings, index.store) is None
    assert index.reindex() == 0
    assert index.live.name == second.name


def test_promoting_the_model_given_ends_the_pause(index: Index) -> None:
    index.reindex()
    roll_back(Settings.load(), index.store)
    assert index.reindex("--model", index.models[0]) == 0
    assert pause_of(index), "it is the model that was rolled back to"
    assert index.reindex("--model", index.models[1]) == 0
    assert pause_of(index) is None
    assert index.live.metadata.model_name == index.models[1]


def test_a_rerun_ends_the_pause_that_a_killed_run_left_after_its_promotion(index: Index) -> None:
    first = index.live
    index.reindex()
    pause_runs(index.store.control("images"), first.name, index.live.name)
    assert index.reindex("--model", index.models[1], "--dry-run") == 0
    assert pause_of(index)
    assert index.reindex("--model", index.models[1]) == 0
    assert pause_of(index) is None


def test_a_rollback_without_a_retired_collection_is_refused(index: Index) -> None:
    with pytest.raises(ConfigurationError, match="no retired collection"):
        roll_back(Settings.load(), index.store)
    assert pause_of(index) is None


def test_a_rollback_during_a_build_is_refused_and_names_the_run(index: Index) -> None:
    index.reindex()
    with UpgradeLock(index.store.control("images"), "a build"), pytest.raises(StoreBusyError, match="run a build"):
        roll_back(Settings.load(), index.store)


def pause_of(index: Index) -> RollbackPause | None:
    return read_pause(index.store.control("images"))
