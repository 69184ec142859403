"""A pass over few objects of which none is new: compared and counted by the driver, no worker asked."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.indexing import World
from tests.indexing.pictures import fill
from viewfinder.cluster.executor import ClusterWork
from viewfinder.cluster.pipeline import Pass
from viewfinder.indexing import shortcut
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.report import Report
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.build import plan_runs
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.settings import Settings
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.uris import point_id

NAMES = [f"{number:02}.jpg" for number in range(12)]


@pytest.fixture
def indexed(world: World) -> World:
    """Ten pictures, a broken one, and one that was taken down."""
    fill(world.bucket, NAMES[:11])
    (world.bucket / "bad.jpg").write_bytes(b"no picture")
    world.store.take_down("images", {point_id(f"{world.source}/03.jpg"): ""})
    world.sync()
    return world


def sync(world: World, directory: Path) -> Pass:
    """What a job would do on its cluster; there is none here."""
    settings = Settings.load()
    report = Report.open(settings, world.reach.access, str(directory / "report"))
    (options,) = plan_runs(world.collection, ReindexOptions(), prune_max_ratio=1.0)
    work = ClusterWork(settings, world.reach, world.store, report, directory)
    return work.sync(options, world.collection, locate(world.model))


def test_where_nothing_is_new_the_driver_is_enough(indexed: World, tmp_path: Path) -> None:
    before = indexed.points
    done = sync(indexed, tmp_path)
    assert done.counts == {"listed": 12, "unchanged": 11, "indexed": 0, "failed": 1, "pruned": 0}
    assert done.outcome.tally.withheld == 1
    assert done.expected == len(before) == 10
    assert [each.name for each in done.outcome.stages] == ["compare", "write"]
    assert indexed.points == before


def test_what_is_gone_is_pruned_all_the_same(indexed: World, tmp_path: Path) -> None:
    (indexed.bucket / "05.jpg").unlink()
    assert sync(indexed, tmp_path).counts == {"listed": 11, "unchanged": 10, "indexed": 0, "failed": 1, "pruned": 1}
    assert "05.jpg" not in indexed.points


@pytest.mark.parametrize(("listed", "few"), [(12, True), (shortcut.FEW + 1, False)])
def test_many_objects_are_left_to_the_workers(indexed: World, tmp_path: Path, listed: int, few: bool) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), path)
    compare = Compare(indexed.reach, indexed.collection)
    compared = shortcut.compared(Manifest((path,), listed, 0, ()), compare, indexed.store)
    assert (compared is not None) == few
