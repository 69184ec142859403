"""The embedded store: points written per second, time of a query, and waits while its graphs are built.

`python -m benchmarks.embedded POINTS [--quantization int8]` measures a store of any size once.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from qdrant_client import QdrantClient, models

from benchmarks.harness import Measurement
from benchmarks.job import ROOT
from benchmarks.ratio import in_turn
from viewfinder.arrays import Vectors
from viewfinder.edge.copying import stored_bytes
from viewfinder.indexing.rows import Row, table_of
from viewfinder.indexing.write import write_rows
from viewfinder.settings import Quantization
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, PointBatch, Store, StoreAddress, open_local, open_shared
from viewfinder.store.directory import store_directory
from viewfinder.store.schema import ModelIdentity

DIMENSION = 512
POINTS = 200_000
QUERIES = 300
BEFORE_S = 60.0
_CLUSTERS = 1_000
_BATCH = 256
_FILTER = {"width": {"lt": 100}, "format": {"eq": "jpeg"}}  # a twentieth of the points
_GRAPHS_ABOVE_KB = 20_000
_MOST_WRITTEN = 0.09  # for a tenth more points the graph would be built again


def measure_insert(quick: bool) -> Measurement:
    """Points written per second by the write stage into the embedded store ÷ by qdrant-client's local mode."""
    count = 256 if quick else 4_000
    vectors = clustered(count)
    rows = [_row(number, vectors[number]) for number in range(count)]
    table = table_of(rows)
    with tempfile.TemporaryDirectory(prefix="viewfinder-bench-") as directory, _opened(Path(directory)) as store:
        numbers = iter(range(1000))

        def ours() -> None:
            collection = store.collections.open(f"i{next(numbers)}", _identity())
            write_rows(store, collection, table, run_id="r", batch_size=128)

        def theirs() -> None:
            client = QdrantClient(path=str(Path(directory) / f"local{next(numbers)}"))
            config = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
            client.create_collection("images", {"image": config})
            for first in range(0, count, 128):
                part = range(first, min(first + 128, count))
                payloads = [{name: rows[row][name] for name in ("uri", "bucket", "key", "etag")} for row in part]
                batch = models.Batch(
                    ids=[rows[row]["id"] for row in part],
                    vectors={"image": vectors[first : part.stop].tolist()},
                    payloads=payloads,
                )
                client.upsert("images", batch)
            client.close()

        ratio = in_turn("embedded_insert", theirs, ours, rounds=1 if quick else 3)
    return Measurement(
        ratio.value,
        f"write stage {count / ratio.second_ms * 1000:,.0f} points/s with 17 payload indexes, local mode "
        f"{count / ratio.first_ms * 1000:,.0f} points/s, {ratio}; {count:,} points of {DIMENSION} numbers in batches "
        "of 128, a new collection each time",
    )


def measure_query(quick: bool) -> Measurement:
    """Median milliseconds of a vector query from another program than the holder, the slower of plain and filtered."""
    found = _large(quick)
    return Measurement(
        max(found.plain_ms, found.filtered_ms),
        f"plain {found.plain_ms:.1f} ms, filtered {found.filtered_ms:.1f} ms, recall@10 {found.recall:.3f}; {found}",
    )


def measure_swap(quick: bool) -> Measurement:
    """Longest wait of a query, in ms, from another program while graphs are built and replace the shard."""
    found = _large(quick)
    worst = sorted(found.waits_ms)
    return Measurement(
        worst[-1],
        f"{len(worst):,} queries during {found.build_s:.0f} s, median {statistics.median(worst):.1f} ms, 99th "
        f"percentile {worst[int(len(worst) * 0.99)]:.1f} ms; {found.without_build}; {found.written:,} points written "
        f"meanwhile; {found}",
    )


@dataclass(frozen=True)
class Large:
    """Measurements of one large store."""

    points: int
    load_per_s: float
    before_ms: Sequence[float]
    build_s: float
    waits_ms: Sequence[float]
    written: int
    plain_ms: float
    filtered_ms: float
    recall: float
    open_s: float
    rss_mb: float
    anonymous_mb: float
    disk_mb: float

    @property
    def without_build(self) -> str:
        """The waits of the minute before, with the same writes and no build."""
        waits = self.before_ms
        return (
            f"in the minute before, with the same writes and no build, {len(waits):,} queries: median "
            f"{statistics.median(waits):.1f}, 99th percentile {waits[int(len(waits) * 0.99)]:.1f}, maximum "
            f"{waits[-1]:.1f} ms"
        )

    def __str__(self) -> str:
        return (
            f"{self.points:,} clustered points of {DIMENSION} numbers, loaded at {self.load_per_s:,.0f}/s, opened in "
            f"{self.open_s:.1f} s, {self.rss_mb:,.0f} MB resident ({self.anonymous_mb:,.0f} anonymous), "
            f"{self.disk_mb:,.0f} MB on disk"
        )


@functools.cache
def _large(quick: bool) -> Large:
    with tempfile.TemporaryDirectory(prefix="viewfinder-bench-") as directory:
        return measure_large(Path(directory), 2_000 if quick else POINTS)


def measure_large(directory: Path, points: int, quantization: Quantization = "none") -> Large:
    """Load a store, build its graphs while another program asks and this one writes, and ask it then."""
    with _role("hold", directory, quantization):
        address = StoreAddress(directory, quantization=quantization)
        with open_shared(address) as store:
            collection = store.collections.open("images", _identity())
            _set_threshold(store, collection, 0)
            load_per_s = _load(store, collection, points)
            with _role("ask", directory) as asker:
                _keep_writing(store, collection, points, BEFORE_S if points >= POINTS else 1)
                before_ms = sorted(json.loads(asker.communicate("\n")[0]))
            with _role("ask", directory) as asker:
                began = time.perf_counter()
                _set_threshold(store, collection, min(_GRAPHS_ABOVE_KB, points))
                written = _write_until_built(store, collection, points)
                build_s = time.perf_counter() - began
                time.sleep(1)
                waits_ms = json.loads(asker.communicate("\n")[0])
            while store.connection.call("get_collection", collection_name=collection.name).status != "green":
                time.sleep(1)  # what was written meanwhile may get graphs, too
            plain_ms = statistics.median(_ask(store, collection, QUERIES))
            filtered_ms = statistics.median(_ask(store, collection, QUERIES, _FILTER))
            recall = _recall(store, collection)
            rss_mb, anonymous_mb = _memory()
    opened_at = time.perf_counter()
    with open_local(StoreAddress(directory)) as store:
        _ask(store, store.collections.open("images", _identity()), 1)
        open_s = time.perf_counter() - opened_at
    disk_mb = stored_bytes(store_directory(directory)) / 1e6
    return Large(
        points, load_per_s, before_ms, build_s, waits_ms, written, plain_ms, filtered_ms, recall, open_s, rss_mb,
        anonymous_mb, disk_mb,
    )  # fmt: skip


def clustered(count: int, seed: int = 0) -> Vectors:
    """Return vectors around centres, float32 [count, DIMENSION], as those of images are."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=0.6, size=(count, DIMENSION)).astype(np.float32)
    made = _centres()[rng.integers(0, _CLUSTERS, count)] + noise
    unit: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


@functools.cache
def _centres() -> Vectors:
    centres: Vectors = np.random.default_rng(1).normal(size=(_CLUSTERS, DIMENSION)).astype(np.float32)
    return centres


def _row(number: int, vector: Vectors) -> Row:
    uri = f"s3://bucket/images/{number:07}.jpg"
    made: dict[str, Any] = {
        "id": point_id(uri),
        "action": "index",
        "count": 1,
        "exists": False,
        "uri": uri,
        "bucket": "bucket",
        "key": f"images/{number:07}.jpg",
        "etag": f"{number:032x}",
        "sources": ["s3://bucket/images"],
        "image_vector": vector.tobytes(),
    }
    return cast(Row, made)


def _payload(number: int) -> dict[str, Any]:
    return {
        "uri": f"s3://bucket/images/{number:07}.jpg",
        "bucket": "bucket",
        "key": f"images/{number:07}.jpg",
        "etag": f"{number:032x}",
        "format": "jpeg" if number % 2 else "png",
        "width": number % 1000,
        "height": 480,
        "sources": ["s3://bucket/images"],
        "run_id": "r",
        "caption": "a red car",
    }


def _identity() -> ModelIdentity:
    return ModelIdentity("benchmark", "f00d", DIMENSION)


@contextmanager
def _opened(directory: Path) -> Iterator[Store]:
    with open_local(StoreAddress(directory)) as store:
        yield store


@contextmanager
def _role(role: str, directory: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run this module as another program until the block ends."""
    command = [sys.executable, "-m", "benchmarks.embedded", role, str(directory), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"the program {role!r} did not start")
            yield process
        finally:
            if not process.stdin.closed:
                process.stdin.close()
            process.wait()


def _hold(directory: Path, quantization: Quantization) -> None:
    with open_local(StoreAddress(directory, quantization=quantization)):
        print("ready", flush=True)
        sys.stdin.read()


def _keep_asking(directory: Path) -> None:
    done = threading.Event()

    def wait_for_input() -> None:
        sys.stdin.readline()
        done.set()

    threading.Thread(target=wait_for_input, daemon=True).start()
    waits: list[float] = []
    with open_shared(StoreAddress(directory)) as store:
        collection = store.collections.open("images", _identity())
        _ask(store, collection, 20)
        print("ready", flush=True)
        while not done.is_set():
            waits += _ask(store, collection, 1)
            time.sleep(0.02)
    print(json.dumps(waits))


def _load(store: Store, collection: Collection, points: int) -> float:
    began = time.perf_counter()
    for first in range(0, points, _BATCH):
        _write(store, collection, range(first, min(first + _BATCH, points)))
    return points / (time.perf_counter() - began)


def _write(store: Store, collection: Collection, numbers: range) -> None:
    ids = [str(uuid.UUID(int=number + 1)) for number in numbers]
    batch = PointBatch(ids, list(map(_payload, numbers)), image=clustered(len(numbers), seed=numbers.start + 7))
    store.points.upsert(collection, batch, wait=True)


def _keep_writing(store: Store, collection: Collection, points: int, seconds: float) -> None:
    """Write up to 32 points five times a second; the same ones, so that their number stays."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _write(store, collection, range(points, points + _step(points)))
        time.sleep(0.2)


def _step(points: int) -> int:
    return min(32, points // 2_000)


def _write_until_built(store: Store, collection: Collection, points: int) -> int:
    """Write up to 32 points five times a second until graphs are built; return their number."""
    written, step = 0, _step(points)
    while True:
        if written < _MOST_WRITTEN * points:
            written += step  # behind those of the minute before
            _write(store, collection, range(points + written, points + written + step))
        info = store.connection.call("get_collection", collection_name=collection.name)
        if (info.indexed_vectors_count or 0) >= points:
            return written
        time.sleep(0.2)


def _set_threshold(store: Store, collection: Collection, kilobytes: int) -> None:
    config = models.OptimizersConfigDiff(indexing_threshold=kilobytes)
    store.connection.call("update_collection", collection_name=collection.name, optimizers_config=config)


def _ask(store: Store, collection: Collection, count: int, filter: dict[str, Any] | None = None) -> list[float]:
    """Return the milliseconds of `count` queries for 10 points with their payload."""
    spent = []
    for vector in clustered(count, seed=int(time.perf_counter() * 1000) % 100_000):
        began = time.perf_counter()
        found = store.search.nearest(collection, vector, limit=10, filter=filter)
        spent.append((time.perf_counter() - began) * 1000)
        if len(found) != 10:
            raise RuntimeError(f"{len(found)} hits instead of 10")
    return spent


def _recall(store: Store, collection: Collection) -> float:
    """Return the share of the 10 nearest points that a search finds, on average of 50 queries."""
    from viewfinder.store import Search

    shares = []
    for vector in clustered(50, seed=99):
        near, exact = (
            {hit.id for hit in store.search.many(collection, [Search(vector, limit=10, exact=exact)])[0]}
            for exact in (False, True)
        )
        shares.append(len(near & exact) / 10)
    return statistics.mean(shares)


def _memory() -> tuple[float, float]:
    """Return the resident and the anonymous memory of the largest process of a collection, in MB."""
    largest = (0.0, 0.0)
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if b"viewfinder.edge.process" in command and "VmRSS" in lines:
            found = (int(lines["VmRSS"].split()[0]) / 1e3, int(lines["RssAnon"].split()[0]) / 1e3)
            largest = max(largest, found)
    return largest


def main() -> None:
    """Measure one store, or play a part in a measurement."""
    if sys.argv[1:2] == ["hold"]:
        return _hold(Path(sys.argv[2]), cast(Quantization, sys.argv[3]))
    if sys.argv[1:2] == ["ask"]:
        return _keep_asking(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded", description=__doc__)
    parser.add_argument("points", type=int)
    parser.add_argument("--quantization", default="none", choices=["none", "int8", "4bit"])
    parser.add_argument("--directory", type=Path, help="where the store is made (a temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="viewfinder-bench-", dir=arguments.directory) as directory:
        found = measure_large(Path(directory), arguments.points, arguments.quantization)
    waits = sorted(found.waits_ms)
    print(found)
    print(
        f"p50 plain {found.plain_ms:.1f} ms, filtered {found.filtered_ms:.1f} ms, recall@10 {found.recall:.3f}; "
        f"graphs built in {found.build_s:.0f} s, {len(waits):,} queries meanwhile: "
        f"median {statistics.median(waits):.1f}, 99th percentile {waits[int(len(waits) * 0.99)]:.1f}, maximum "
        f"{waits[-1]:.1f} ms; {found.without_build}; {found.written:,} points written meanwhile"
    )
    return None


if __name__ == "__main__":
    main()
