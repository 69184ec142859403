"""Two index runs at once over overlapping sources: neither loses what the other writes."""

import json
from collections.abc import Callable

import pytest

from tests.fixtures.indexing import RecordingIndexer, World
from tests.fixtures.options import index_options
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.indexing.accounting import Outcome
from viewfinder.indexing.executor import Compared, IndexJob, InProcessExecutor
from viewfinder.indexing.preflight import open_collection
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.indexing.report import Summary
from viewfinder.indexing.run import index
from viewfinder.models.checkpoint import locate
from viewfinder.store import Store
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow


class PausedExecutor(InProcessExecutor):
    """Calls `meanwhile` after the comparison, before anything is fetched and written, or `afterwards`."""

    def __init__(self, meanwhile: Callable[[], object], *, afterwards: bool = False) -> None:
        super().__init__(cores=1)
        self._meanwhile = meanwhile
        self._afterwards = afterwards

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        assert compared is not None
        if self._afterwards:
            outcome = super().index(job, store, compared, progress)
            self._meanwhile()
            return outcome
        self._meanwhile()
        return super().index(job, store, compared, progress)


def sync_around(world: World, meanwhile: Callable[[], object], *flags: str) -> None:
    """Run the indexer over the whole bucket, and `meanwhile` between its comparison and its writes."""
    checkpoint = locate(world.model)
    collection = open_collection(world.store, world.settings(), checkpoint, create=True)
    assert collection is not None
    workspace = world.directory / "outer"
    with PausedExecutor(meanwhile) as executor:
        indexer = RecordingIndexer(
            world.settings(), world.store, executor, "20260101T000000-outer", workspace, world.access
        )
        indexer.sync(index_options(["--source", world.source, *flags]), collection, checkpoint)


@pytest.mark.parametrize("exists", [False, True], ids=["new", "changed"])
def test_captions_and_sources_that_another_run_writes_meanwhile_stay(world: World, exists: bool) -> None:
    """Seed 324: the second write of a point that was new to both runs replaced it, without caption and source."""
    fill(world.bucket, ["cats/d.jpg"])
    if exists:
        world.sync()
        (world.bucket / "cats/d.jpg").write_bytes(encoded_image(99, (64, 64)))
    (world.bucket / "captions.json").write_text(json.dumps({"cats/d.jpg": "a cat"}))
    flags = ("--captions", f"{world.source}/captions.json")
    sync_around(world, lambda: world.sync(*flags, source=f"{world.source}/cats"))
    (point,) = world.points.values()
    assert point.payload["caption"] == "a cat"
    assert set(point.payload["sources"]) == {world.source, f"{world.source}/cats"}
    assert world.store.points.states(world.collection, [point.id])[point.id].has_caption


def test_a_run_with_captions_adds_them_to_a_point_that_another_run_writes_meanwhile(world: World) -> None:
    fill(world.bucket, ["cats/d.jpg"])
    (world.bucket / "captions.json").write_text(json.dumps({"cats/d.jpg": "a cat"}))
    meanwhile = lambda: world.sync(source=f"{world.source}/cats")  # noqa: E731
    sync_around(world, meanwhile, "--captions", f"{world.source}/captions.json")
    (point,) = world.points.values()
    assert point.payload["caption"] == "a cat"
    assert world.store.points.states(world.collection, [point.id])[point.id].has_caption
    assert set(point.payload["sources"]) == {world.source, f"{world.source}/cats"}


def test_a_collection_that_becomes_the_live_one_during_a_run_is_brought_up_to_date_too(
    world: World, other_model: str
) -> None:
    """Seed 274: what this run indexed was missing after a change of model that had read the sources before it."""
    fill(world.bucket, ["old.jpg"])
    world.sync()
    fill(world.bucket, ["new.jpg"], first_seed=9)

    def change_model() -> None:
        if world.collection.metadata.model_name == world.model:
            made = world.store.collections.create(world.index, ModelIdentity.of(locate(other_model)))
            world.store.collections.promote(world.index, made.name)

    options = index_options(["--source", world.source, "--report", str(world.directory / "report")])
    with PausedExecutor(change_model) as executor:
        summary = index(options, world.settings(), world.store, executor, access=world.access)
    assert isinstance(summary, Summary)
    live = world.collection
    assert (summary.collection, live.metadata.model_name) == (live.name, other_model)
    assert set(world.points) == {"old.jpg", "new.jpg"}
    assert set(live.recorded.sources) == {world.source}


def test_a_run_counts_its_own_failures_though_another_one_replaces_their_records(world: World) -> None:
    fill(world.bucket, ["good.jpg"])
    (world.bucket / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    options = index_options(["--source", world.source, "--report", str(world.directory / "report")])
    with PausedExecutor(world.sync, afterwards=True) as executor:
        summary = index(options, world.settings(), world.store, executor, access=world.access)
    assert isinstance(summary, Summary)
    assert (summary.counts["failed"], summary.failures) == (1, {"corrupt": 1})
