"""The collections of an index as `viewfinder status` and `jobs/reindex.py --status` show them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from viewfinder.cli.main import app
from viewfinder.models.registry import ModelIdentity
from viewfinder.reindexing import hold, status
from viewfinder.reindexing.upgrade_lock import Lease
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, Store, StoreAddress, open_local


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    return Settings.load()


def fill(store: Store, index: str) -> tuple[str, str]:
    """A live collection of three points, one with a caption, and one that is being built."""
    live = store.collections.open(index, ModelIdentity("first", "f00d", 4))
    vectors = np.eye(3, 4, dtype=np.float32)
    ids = [point_id(f"s3://b/{number}") for number in range(3)]
    captioned = np.array([True, False, False])
    store.points.upsert(
        live, PointBatch(ids, [{}, {}, {}], image=vectors, caption=vectors, has_caption=captioned), wait=True
    )
    return live.name, store.collections.create(index, ModelIdentity("second", "beef", 8)).name


def test_the_live_collection_and_the_one_being_built_are_told_apart(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        live, building = fill(store, "images")
        found = status.read(store, "images")
        assert [(each.name, each.live, each.state, each.points) for each in found.collections] == [
            (live, True, "live", 3),
            (building, False, "building", 0),
        ]
        assert found.collections[0].bytes == 3 * 1000 + 4 * (4 * 4 * 1.25)
        assert (found.hold, found.lease) == (None, None)
        assert list(status.notes(found)) == []


def test_hold_and_lease_are_named(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        live, building = fill(store, "images")
        hold.place(store.control("images"), live, building)
        with Lease(store.control("images"), "run-7"):
            notes = " ".join(status.notes(status.read(store, "images")))
    assert "run run-7" in notes
    assert "--release" in notes
    assert building in notes


def test_a_lease_that_a_killed_job_has_left_is_not_told(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        fill(store, "images")
        Lease(store.control("images"), "killed", ttl_s=-1).take()
        assert list(status.notes(status.read(store, "images"))) == []


def test_the_command_shows_the_same_as_table_and_json(settings: Settings) -> None:
    with open_local(StoreAddress.of(settings)) as store:
        live, building = fill(store, "images")
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0
    assert live in shown.output
    assert building in shown.output
    document = json.loads(CliRunner().invoke(app, ["status", "--json"]).output)
    assert [each["live"] for each in document["collections"]] == [True, False]


def test_an_index_that_does_not_exist_is_said_not_to(settings: Settings) -> None:
    assert "There is no index 'other' yet" in CliRunner().invoke(app, ["status", "--index", "other"]).output


@pytest.mark.parametrize(
    ("count", "shown"), [(999, "999 B"), (1000, "1 kB"), (2_340_000, "2.34 MB"), (5e9, "5 GB"), (7.2e12, "7.2 TB")]
)
def test_sizes_are_said_for_people(count: float, shown: str) -> None:
    assert status.size(count) == shown
