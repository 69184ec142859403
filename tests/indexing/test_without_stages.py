"""Small runs without new objects: compared and written in this process, without the executor's stages."""

import pytest

from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill
from viewfinder.indexing import run
from viewfinder.indexing.accounting import Outcome, RunResult, Tally
from viewfinder.indexing.executor import Compared, IndexJob, InProcessExecutor
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.indexing.run import Indexer
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.build import plan_run
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.sources.uris import point_id
from viewfinder.store import Store

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(12)]


class IdleExecutor(InProcessExecutor):
    """Records the counts written without stages, and if `index` was given compared rows."""

    def __init__(self) -> None:
        super().__init__(cores=1)
        self.counted = Tally()
        self.given_compared: list[bool] = []

    def count_written(self, index: str, tally: Tally) -> None:
        self.counted += tally

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        self.given_compared.append(compared is not None)
        return super().index(job, store, compared, progress)


@pytest.fixture
def indexed(world: World) -> World:
    """Ten images, a broken one, one that is none, and one that was taken down."""
    fill(world.bucket, NAMES[:11])
    (world.bucket / "bad.jpg").write_bytes((world.bucket / "00.jpg").read_bytes()[:30])
    (world.bucket / "notes").write_bytes(b"no image")
    world.store.take_down("images", {point_id(f"{world.source}/03.jpg"): ""})
    world.sync()
    return world


def sync(world: World, executor: IdleExecutor) -> RunResult:
    options = plan_run(world.collection, ReindexOptions(), prune_max_ratio=1.0)
    indexer = Indexer(world.settings(), world.store, executor, "run", world.directory, access=world.access)
    return indexer.sync(options, world.collection, locate(world.model))


def test_a_run_without_new_objects_runs_no_stage(indexed: World) -> None:
    before, executor = indexed.points, IdleExecutor()
    done = sync(indexed, executor)
    assert executor.given_compared == []
    assert done.counts == {"listed": 13, "unchanged": 10, "indexed": 0, "skipped": 2, "failed": 1, "pruned": 0}
    tally = done.outcome.tally
    assert {reason: count for reason, count in tally.skips.items() if count} == {"taken_down": 1, "not_an_image": 1}
    assert done.outcome.tally == executor.counted, "not counted in the metrics"
    assert done.expected == len(before) == 10
    assert [each.name for each in done.outcome.stages] == ["compare", "write"]
    assert indexed.points == before


def test_a_run_without_new_objects_still_prunes(indexed: World) -> None:
    (indexed.bucket / "05.jpg").unlink()
    counts = sync(indexed, IdleExecutor()).counts
    assert counts == {"listed": 12, "unchanged": 9, "indexed": 0, "skipped": 2, "failed": 1, "pruned": 1}
    assert "05.jpg" not in indexed.points


def test_many_objects_are_compared_before_an_encoder_starts(indexed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "COMPARED_HERE", 11)
    before = indexed.points
    executor = IdleExecutor()
    done = sync(indexed, executor)
    assert done.counts == {"listed": 13, "unchanged": 10, "indexed": 0, "skipped": 2, "failed": 1, "pruned": 0}
    assert executor.given_compared == [], "nothing to encode, so no encoder starts"
    assert indexed.points == before

    (indexed.bucket / "new.jpg").write_bytes((indexed.bucket / "00.jpg").read_bytes())
    with executor:
        done = sync(indexed, executor)
    assert done.counts == {"listed": 14, "unchanged": 10, "indexed": 1, "skipped": 2, "failed": 1, "pruned": 0}
    assert executor.given_compared == [True]
    assert set(indexed.points) == {*before, "new.jpg"}
    assert [*indexed.directory.glob("compared-*")] == [], "temporary files"


def test_encoders_of_a_first_run_do_not_wait_for_the_comparison(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    world.store.points.delete(world.collection, [each.id for each in world.points.values()])
    monkeypatch.setattr(run, "COMPARED_HERE", 11)
    with IdleExecutor() as executor:
        assert sync(world, executor).counts["indexed"] == 12
    assert executor.given_compared == [False]
