"""The executor that runs the stages in this process."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from tests.fixtures.indexing import World
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.errors import StoreError
from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.executor import InProcessExecutor, _DecoderOptions, _DecoderPool
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.preflight import open_collection
from viewfinder.indexing.progress import IndexingProgress, NoProgress
from viewfinder.indexing.rows import cut_tables, join_tables
from viewfinder.indexing.run import Indexer
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.sources.access import HeadCheck, ObjectAccess, ObjectContent
from viewfinder.testing.objects import MemoryObjects
from viewfinder.testing.qdrant import DISK_FULL, Fault, QdrantDouble

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(40)]


class Seen(NoProgress):
    """Records the progress of a run."""

    def __init__(self) -> None:
        self.total = 0
        self.counts: list[Mapping[str, int]] = []

    @contextmanager
    def indexing(self, total: int) -> Iterator[IndexingProgress]:
        self.total = total
        yield self.counts.append


def sync(world: World, executor: InProcessExecutor, progress: Seen) -> dict[str, int]:
    checkpoint = locate(world.model)
    settings = Settings.load(fetch_batch_size=3, encode_batch_size=8, write_batch_size=4, fetch_threads=2)
    collection = open_collection(world.store, settings, checkpoint, create=True)
    assert collection is not None
    indexer = Indexer(settings, world.store, executor, "run", world.directory, access=world.access, progress=progress)
    return indexer.sync(IndexOptions((world.source,)), collection, checkpoint).counts


class CountedObjects(MemoryObjects):
    """Objects in memory that know how many bytes of their content are held by readers; `peak` is the maximum."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        super().__init__(contents)
        self.peak = self._held = 0
        self._lock = threading.RLock()  # a garbage collection within `add` may delete other contents

    def add(self, count: int) -> None:
        with self._lock:
            self._held += count
            self.peak = max(self.peak, self._held)

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        content = super().read(uri, max_bytes, check_head)
        return content._replace(data=_Counted(content.data, self))


class _Counted(bytes):
    objects: CountedObjects

    def __new__(cls, data: bytes, objects: CountedObjects) -> "_Counted":
        made = super().__new__(cls, data)
        made.objects = objects
        objects.add(len(data))
        return made

    def __del__(self) -> None:
        self.objects.add(-len(self))


def test_the_bytes_that_wait_for_a_decoder_are_bounded(world: World) -> None:
    cores, limit = 2, 100_000
    # Decoding ends at the damage; reading from memory is faster than any decoder.
    contents = {f"s3://b/{number:02}.jpg": encoded_image(number) + bytes(30_000) for number in range(60)}
    objects = CountedObjects(contents)
    settings = Settings.load(fetch_batch_size=30, encode_batch_size=8, write_batch_size=30, fetch_threads=16)
    checkpoint = locate(world.model)
    collection = open_collection(world.store, settings, checkpoint, create=True)
    assert collection is not None
    access = ObjectAccess(backends=(("s3", objects),))
    with InProcessExecutor(cores=cores, in_flight_bytes=limit) as executor:
        indexer = Indexer(settings, world.store, executor, "run", world.directory, access=access)
        result = indexer.sync(IndexOptions(("s3://b",)), collection, checkpoint)
    assert result.counts["indexed"] == len(contents)
    largest = max(map(len, contents.values()))
    assert limit < objects.peak <= cores * (limit + largest)


@pytest.mark.parametrize(
    ("found", "options", "size"),
    [("cpu", {}, 64), ("cuda", {}, 256), ("cuda", {"device": "cpu"}, 64), ("cuda", {"encode_batch_size": 7}, 7)],
)
def test_the_batch_size_follows_from_the_device_that_is_used(
    found: str, options: dict[str, Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "viewfinder.indexing.executor.choose_device", lambda device: "cpu" if device == "cpu" else found
    )
    with InProcessExecutor(cores=2) as executor:
        assert executor.batch_size(Settings.load({}, **options)) == size


def test_blocks_stream_through_several_decoders_and_every_object_is_counted(world: World) -> None:
    fill(world.bucket, NAMES)
    for name in NAMES[::10]:
        (world.bucket / name).write_bytes(b"\xff\xd8\xff broken")
    seen = Seen()
    with InProcessExecutor(cores=2) as executor:
        counts = sync(world, executor, seen)
    assert counts == {"listed": 40, "unchanged": 0, "indexed": 36, "skipped": 0, "failed": 4, "pruned": 0}
    assert set(world.points) == set(NAMES) - set(NAMES[::10])
    done = [sum(each.values()) for each in seen.counts]
    assert seen.total == 40
    assert done == [8, 16, 24, 32, 40]


def test_an_error_in_a_stage_ends_the_run_and_leaves_the_executor_usable(world: World, qdrant: QdrantDouble) -> None:
    fill(world.bucket, NAMES)
    qdrant.faults.extend(Fault(status=500, message=DISK_FULL, on=r"PUT .*__\d+/points$") for _ in range(10))
    with InProcessExecutor(cores=2) as executor:
        with pytest.raises(StoreError, match="disk is full"):
            sync(world, executor, Seen())
        qdrant.faults.clear()
        assert sync(world, executor, Seen())["failed"] == 0
    assert set(world.points) == set(NAMES)


@pytest.mark.parametrize(("sizes", "size"), [([3, 3, 3], 4), ([10], 3), ([1, 2], 5), ([], 4), ([4, 4], 4)])
def test_tables_are_cut_and_joined_without_losing_rows(sizes: list[int], size: int) -> None:
    numbers = iter(range(sum(sizes)))
    tables = [pa.table({"number": [next(numbers) for _ in range(each)]}) for each in sizes]
    for made in ([*cut_tables(tables, size)], [*join_tables(tables, size)]):
        assert [row for table in made for row in table["number"].to_pylist()] == [*range(sum(sizes))]
        assert all(len(table) <= size for table in made)
    assert all(len(table) == size for table in [*join_tables(tables, size)][:-1])


def test_a_decoder_in_use_while_the_executor_is_closed_ends_too(world: World) -> None:
    settings, checkpoint = Settings.load(), locate(world.model)
    limits = ImageLimits.of(settings)
    pool = _DecoderPool(_DecoderOptions(checkpoint.preprocess, limits, 60.0, settings.decode_memory_bytes, 0))
    with pool.borrow() as decoder:
        decoder.decode(encoded_image(1, (32, 32)))
        pool.close()
        assert decoder._child is not None
    assert decoder._child is None
    with pytest.raises(RuntimeError, match="closed"), pool.borrow():
        pass


def test_a_closed_executor_starts_no_process(world: World) -> None:
    fill(world.bucket, NAMES[:1])
    with InProcessExecutor(cores=1) as executor:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        sync(world, executor, Seen())
