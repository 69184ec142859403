"""The job, the engine's local mode and the re-index treat objects alike, because they run the same stages."""

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.fixtures.indexing import World
from tests.fixtures.qdrant import validating
from tests.fixtures.reindexing import Index
from tests.indexing.sample_images import encoded_image, fill
from viewfinder import ImageSearchEngine
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.run import index as run_index
from viewfinder.sources.uris import point_id
from viewfinder.store import Failure
from viewfinder.testing.qdrant import DISK_FULL, Fault, QdrantDouble, Request
from viewfinder.testing.s3 import S3Endpoint
from viewfinder.testing.s3_faults import FOREVER, S3Fault, S3FaultProxy

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(4)]
UPSERT = re.compile(r"/collections/images__[^/]*\d{4}/points$")


class Interrupted(QdrantDouble):
    """Calls `before_upsert` once, when the first upsert has arrived but is not applied yet."""

    before_upsert: Callable[[], object] | None = None

    def answer(self, request: Request, key: str | None) -> object:
        if request.method == "PUT" and UPSERT.search(request.path) and self.before_upsert is not None:
            call, self.before_upsert = self.before_upsert, None
            call()
        return super().answer(request, key)


@pytest.fixture
def qdrant() -> Iterator[Interrupted]:
    with validating(Interrupted) as double:
        yield double


def by_engine(world: World) -> dict[str, int]:
    with ImageSearchEngine(mode="local", model_name=world.model) as engine:
        result = engine.index_directory(world.source)
    return {
        "indexed": result.indexed,
        "unchanged": result.unchanged,
        "skipped": result.skipped,
        "failed": result.failed,
    }


def by_job(world: World) -> dict[str, int]:
    counts = world.sync()
    return {name: counts[name] for name in ("indexed", "unchanged", "skipped", "failed")}


WAYS = pytest.mark.parametrize("run", [by_job, by_engine])
Run = Callable[[World], dict[str, int]]


def failure_of(world: World, name: str) -> Failure:
    (failure,) = world.store.control(world.index).failures([point_id(f"{world.source}/{name}")]).values()
    return failure


@WAYS
def test_a_changed_image_that_exceeds_the_time_limit_keeps_its_point(
    world: World, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Local mode deleted the point and recorded the failure as permanent."""
    fill(world.bucket, NAMES)
    run(world)
    before = world.points
    (world.bucket / "01.jpg").write_bytes(encoded_image(99, (64, 64)))
    monkeypatch.setenv("VIEWFINDER_DECODE_TIMEOUT_S", "0.000001")
    assert run(world) == {"indexed": 0, "unchanged": 3, "skipped": 0, "failed": 1}
    assert world.points == before
    failure = failure_of(world, "01.jpg")
    assert (failure.reason, failure.permanent) == ("decode_timeout", False)

    monkeypatch.delenv("VIEWFINDER_DECODE_TIMEOUT_S")
    assert run(world) == {"indexed": 1, "unchanged": 3, "skipped": 0, "failed": 0}
    assert world.points["01.jpg"].payload["width"] == 64


@WAYS
def test_a_short_read_is_retried_and_never_recorded_as_truncated(
    world: World, s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Local mode recorded half an image as truncated, permanently."""
    fill(world.bucket, NAMES)
    with S3FaultProxy(s3.url) as proxy:
        monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", proxy.url)
        world.access = type(world.access)(endpoint_url=proxy.url)
        proxy.inject(S3Fault(r"^GET /[^?]+01\.jpg", times=FOREVER, length_off=-100))
        assert run(world) == {"indexed": 3, "unchanged": 0, "skipped": 0, "failed": 1}
        failure = failure_of(world, "01.jpg")
        assert (failure.reason, failure.permanent) == ("unavailable", False)

        proxy.inject(S3Fault(r"^GET /[^?]+01\.jpg", times=1, length_off=-100))
        assert run(world) == {"indexed": 1, "unchanged": 3, "skipped": 0, "failed": 0}


@WAYS
def test_a_takedown_during_a_write_is_kept(world: World, qdrant: Interrupted, run: Run) -> None:
    fill(world.bucket, NAMES)
    uri = f"{world.source}/02.jpg"
    qdrant.before_upsert = lambda: world.store.take_down(world.index, {point_id(uri): uri})
    assert run(world)["failed"] == 0
    assert set(world.points) == set(NAMES) - {"02.jpg"}
    assert run(world) == {"indexed": 0, "unchanged": 3, "skipped": 1, "failed": 0}
    assert set(world.points) == set(NAMES) - {"02.jpg"}


def test_a_store_that_refuses_writes_ends_job_engine_and_reindex_with_the_same_error(
    index: Index, qdrant: QdrantDouble
) -> None:
    world = index.world
    fill(world.bucket, ["new.jpg"], first_seed=50)
    qdrant.faults.extend(Fault(status=500, message=DISK_FULL, on=rf"PUT .*{UPSERT.pattern}") for _ in range(100))
    options = IndexOptions((world.source,), model=world.model, report=str(world.directory / "job"))
    said = []
    for run in (
        lambda: run_index(options, world.settings(), world.store, world.executor, access=world.access),
        lambda: by_engine(world),
        lambda: index.reindex(),
    ):
        with pytest.raises(StoreError, match="disk is full") as caught:
            run()
        assert not isinstance(caught.value, StoreUnavailableError), "a retry would not free space"
        said.append(str(caught.value))
    assert len(set(said)) == 1, "the messages differ"

    reports = [world.directory / "job", *(world.directory / "data" / "runs").iterdir(), world.directory / "reindex-1"]
    assert len(reports) == 3
    for report in reports:
        summary = json.loads((report / "summary.json").read_text())
        assert (summary["state"], summary["problem"]) == ("failed", said[0])
