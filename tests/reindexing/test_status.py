"""The status of an index: its collections, the pause after a rollback, the upgrade lock."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from viewfinder.cli.main import app
from viewfinder.indexing.accounting import skip_counts
from viewfinder.reindexing import status
from viewfinder.reindexing.rollback import pause_runs
from viewfinder.reindexing.upgrade_lock import UpgradeLock
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, Store, StoreAddress, open_local
from viewfinder.store.schema import ModelIdentity


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    return Settings.load()


def fill(store: Store, index: str) -> tuple[str, str]:
    """Make a live collection of three points, one with a caption, and one that is being built; return their names."""
    live = store.collections.open(index, ModelIdentity("first", "f00d", 4))
    vectors = np.eye(3, 4, dtype=np.float32)
    ids = [point_id(f"s3://b/{number}") for number in range(3)]
    has_caption = np.array([True, False, False])
    batch = PointBatch(ids, [{}, {}, {}], image=vectors, caption=vectors, has_caption=has_caption)
    store.points.upsert(live, batch, wait=True)
    return live.name, store.collections.create(index, ModelIdentity("second", "beef", 8)).name


def test_live_and_building_collections_are_told_apart(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        live, building = fill(store, "images")
        found = status.read(store, "images")
    assert [(each.name, each.live, each.state, each.points) for each in found.collections] == [
        (live, True, "live", 3),
        (building, False, "building", 0),
    ]
    assert found.collections[0].bytes == 3 * (795 + 1000) + 130 + 4 * (4 * (4 + 1) + 136)  # float32 and 8 bits
    assert (found.rollback_pause, found.locked_by) == (None, None)


def test_the_objects_that_the_last_run_skipped_are_part_of_the_status(settings: Settings) -> None:
    counts = {"listed": 5, "skipped": 3} | skip_counts({"archived": 2, "hidden": 1, "video": 0})
    with open_local(StoreAddress.of(settings)) as store:
        live, _ = fill(store, "images")
        store.collections.update_metadata(live, counts=counts)
        found = status.read(store, "images")
    assert [each.skipped for each in found.collections] == [{"archived": 2, "hidden": 1}, {}]
    shown = CliRunner().invoke(app, ["status"]).output
    assert "The last run skipped 3 objects: 2 archived, 1 hidden." in shown


def test_the_pause_and_the_lock_holder_are_part_of_the_status(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        live, building = fill(store, "images")
        pause_runs(store.control("images"), live, building)
        with UpgradeLock(store.control("images"), "run-7"):
            found = status.read(store, "images")
    assert found.rollback_pause is not None
    assert found.rollback_pause.rolled_back_from == building
    assert found.locked_by is not None
    assert found.locked_by.run_id == "run-7"


def test_an_expired_lock_is_left_out(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        fill(store, "images")
        UpgradeLock(store.control("images"), "killed", ttl_s=-1).acquire()
        assert status.read(store, "images").locked_by is None


def test_the_command_reports_a_missing_index(settings: Settings) -> None:
    assert "There is no index 'other' yet" in CliRunner().invoke(app, ["status", "--index", "other"]).output


@pytest.mark.parametrize(
    ("count", "shown"), [(999, "999 B"), (1000, "1 kB"), (2_340_000, "2.34 MB"), (5e9, "5 GB"), (7.2e12, "7.2 TB")]
)
def test_sizes_have_units(count: float, shown: str) -> None:
    assert status.format_bytes(count) == shown
