"""Compare a run with faults to the same run without: both must produce the same index."""

import json
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.chaos.table import Cost
from tests.fixtures.indexing import World
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.sources.uris import point_id
from viewfinder.store.schema import VectorName
from viewfinder.testing.qdrant import Fault, QdrantDouble
from viewfinder.testing.s3_faults import FOREVER, S3Fault, S3FaultProxy

NAMES = [f"{number:02}.jpg" for number in range(20)]
BROKEN = {"empty.jpg": b"", "text.jpg": b"this is not an image"}
RUN_FIELDS = ("run_id", "indexed_at", "last_modified")
KINDS: tuple[VectorName, ...] = ("image", "caption")

Vectors = dict[str, np.ndarray]


@dataclass
class Index:
    """The content of an index by key: payloads without fields of the run, vectors, and recorded failures."""

    payloads: dict[str, dict[str, Any]]
    vectors: dict[str, Vectors]
    failures: dict[str, str]

    @classmethod
    def of(cls, world: World) -> "Index":
        points = world.points
        assert (
            len({record.id for record in points.values()}) == len(points) == world.store.points.count(world.collection)
        ), "an object has more than one point"
        return cls(
            {
                key: {name: value for name, value in record.payload.items() if name not in RUN_FIELDS}
                for key, record in points.items()
            },
            vectors(world),
            world.recorded_failures([*NAMES, *BROKEN, "new.png"]),
        )


def vectors(world: World) -> dict[str, Vectors]:
    """All vectors of the live collection: by kind, then by key."""
    ids = {record.id: key for key, record in world.points.items()}
    return {
        kind: {
            ids[each]: vector for each, vector in world.store.points.vectors(world.collection, list(ids), kind).items()
        }
        for kind in KINDS
    }


def assert_same_vectors(mine: dict[str, Vectors], theirs: dict[str, Vectors]) -> None:
    for kind in KINDS:
        assert mine[kind].keys() == theirs[kind].keys(), f"different images have {kind} vectors"
        wrong = [key for key, vector in mine[kind].items() if not np.allclose(vector, theirs[kind][key], atol=1e-5)]
        assert not wrong, f"{kind} vectors differ"


def cases(faults: Mapping[str, Any], long: Collection[str]) -> list[Any]:
    """A test case for each fault; the `long` ones only where all tests run."""
    return [
        pytest.param(each, id=name, marks=[pytest.mark.full] if name in long else []) for name, each in faults.items()
    ]


def strikes(faults: Iterable[Fault]) -> int:
    """Number of faults that do something; an empty fault lets a request pass."""
    return sum(each != Fault(on=each.on) for each in faults)


@dataclass
class Trial:
    """A bucket of images, some of them broken, with two indexes: `reference` without faults, and `images` with faults.

    `change` changes the bucket between a first and a second run, so that faults hit new points, changed points, changed
    captions and a prune.
    """

    world: World
    qdrant: QdrantDouble
    proxy: S3FaultProxy
    cost: Cost
    expected: list[Index] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)
    fault_free: list[tuple[int, float]] = field(default_factory=list)

    def without_faults(self) -> None:
        """Make both runs without faults and keep their results; then restore the bucket for the other index."""
        self.world.index = "reference"
        self.fill()
        for prepare in (lambda: None, self.change):
            prepare()
            self.counts.append(self.sync())
            self.expected.append(Index.of(self.world))
            self.fault_free.append((self.requests, self.seconds))
        self.world.index = "images"
        self.fill()

    def with_faults(self, s3: Sequence[S3Fault] = (), store: Sequence[Fault] = ()) -> None:
        """Make both runs with these faults; after each, the index must equal the one without faults.

        The first run must hit all of the faults; the second, which does less, at least one.
        """
        planned = sum(each.times for each in s3 if each.times < FOREVER) + strikes(store)
        for number, prepare in enumerate((lambda: None, self.change)):
            prepare()
            counts = self.sync(s3, store)
            self.record_cost(number)
            assert self.injected >= (1 if number else planned), "a fault was not hit"
            assert counts == self.counts[number], "the counts differ from those without faults"
            self.assert_same_as_without_faults(number)

    def record_cost(self, number: int = 0) -> None:
        """Add the last run to the row of the table, next to the fault-free run with that number."""
        cost, (requests, seconds) = self.cost, self.fault_free[number]
        cost.injected = (cost.injected or 0) + self.injected
        cost.retries = (cost.retries or 0) + max(0, self.requests - requests)
        cost.seconds = (cost.seconds or 0.0) + self.seconds
        cost.without = (cost.without or 0.0) + seconds

    def sync(self, s3: Sequence[S3Fault] = (), store: Sequence[Fault] = ()) -> dict[str, int]:
        """Make one run through the proxy; record its requests, injected faults and duration."""
        self.proxy.inject(*s3)
        self.qdrant.faults.extend(store)
        asked, began = len(self.qdrant.requests), time.perf_counter()
        flags = ("--captions", f"{self.world.source}/captions.json", "--prune", "--prune-max-ratio", "0.5")
        try:
            return self.world.sync(*flags)
        finally:
            self.seconds = time.perf_counter() - began
            self.requests = self.proxy.requests + len(self.qdrant.requests) - asked
            self.injected = self.proxy.injected + strikes(store) - strikes(self.qdrant.faults)
            self.proxy.inject()
            self.qdrant.faults.clear()

    def assert_same_as_without_faults(self, number: int) -> None:
        """Assert that nothing is lost, duplicated or wrong, and that the same failures are recorded."""
        now, expected = Index.of(self.world), self.expected[number]
        assert now.payloads == expected.payloads
        assert now.failures == expected.failures
        assert_same_vectors(now.vectors, expected.vectors)
        ids = {key: record.id for key, record in self.world.points.items()}
        assert ids == {key: point_id(f"{self.world.source}/{key}") for key in ids}

    def fill(self) -> None:
        """Reset the bucket to its initial content."""
        shutil.rmtree(self.world.bucket)
        self.world.bucket.mkdir()
        fill(self.world.bucket, NAMES)
        for name, content in BROKEN.items():
            (self.world.bucket / name).write_bytes(content)
        self._caption({name: f"image {name}" for name in NAMES[:15]})

    def change(self) -> None:
        """Change the bucket for a second run."""
        for seed, name in enumerate(NAMES[:3], start=100):
            (self.world.bucket / name).write_bytes(encoded_image(seed, (64, 64)))
        for name in NAMES[3:5]:
            (self.world.bucket / name).unlink()
        (self.world.bucket / "new.png").write_bytes(encoded_image(500, kind="PNG"))
        self._caption({name: f"another {name}" for name in [*NAMES[2:8], "new.png"]})

    def _caption(self, captions: dict[str, str]) -> None:
        (self.world.bucket / "captions.json").write_text(json.dumps(captions))
