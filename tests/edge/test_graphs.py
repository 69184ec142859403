"""Graphs are built in the background, while points are written and searched."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.edge.writing import id_of
from viewfinder.edge.engine import SharedEngine

pytestmark = pytest.mark.slow

DIMENSION = 32
COUNT = 3_000
VECTORS = np.random.default_rng(4).normal(size=(COUNT + 2_000, DIMENSION)).astype(np.float32)


def write(engine: SharedEngine, first: int, count: int) -> None:
    rows = range(first, first + count)
    batch = {
        "ids": [id_of(row) for row in rows],
        "vectors": {"image": VECTORS[first : first + count].tolist()},
        "payloads": [{"row": row} for row in rows],
    }
    engine.answer("PUT", "/collections/a/points", {"batch": batch})


def found(engine: SharedEngine, row: int, *, exact: bool = False) -> list[int]:
    body = {"query": VECTORS[row].tolist(), "using": "image", "limit": 10, "with_payload": True}
    answer = engine.answer("POST", "/collections/a/points/query", body | {"params": {"exact": exact}})
    return [point["payload"]["row"] for point in answer["points"]]


def described(engine: SharedEngine) -> tuple[str, int, int]:
    info = engine.answer("GET", "/collections/a")
    return info["status"], info["points_count"], info["indexed_vectors_count"]


def wait_until_green(engine: SharedEngine) -> None:
    deadline = time.monotonic() + 120
    while described(engine)[0] != "green":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_shard_is_replaced_without_losing_writes_or_searches(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path, quiet_s=0.3)
    config = {"vectors": {"image": {"size": DIMENSION, "distance": "Cosine", "on_disk": True}}}
    engine.answer("PUT", "/collections/a", config | {"optimizers_config": {"indexing_threshold": 100}})
    for first in range(0, COUNT, 500):
        write(engine, first, 500)
    assert described(engine)[0] == "yellow"
    done = threading.Event()
    asked: list[list[int]] = []

    def search() -> None:
        while not done.is_set():
            asked.append(found(engine, len(asked) % COUNT))

    thread = threading.Thread(target=search)
    thread.start()
    written = COUNT
    while engine.registry.collections["a"].graph_points == 0 and written < len(VECTORS):
        write(engine, written, 10)
        engine.answer("POST", "/collections/a/points/delete", {"points": [id_of(written)]})
        written += 10
        # Pauses long enough for the building to begin, short enough to write while it goes on.
        time.sleep(0.4 if engine._graphs.building is None else 0.02)
    wait_until_green(engine)
    done.set()
    thread.join()
    assert all(row % COUNT == rows[0] for row, rows in enumerate(asked))  # each point is nearest to itself
    added = written - COUNT
    assert added > 0
    status, points, indexed = described(engine)
    assert (status, points) == ("green", COUNT + added * 9 // 10)
    assert indexed >= COUNT
    rows = range(0, COUNT, 60)
    shared = [len({*found(engine, row)} & {*found(engine, row, exact=True)}) / 10 for row in rows]
    assert np.mean(shared) > 0.95
    assert len(list((tmp_path / "shards").iterdir())) == 1
    engine.close()
    engine = SharedEngine(tmp_path)
    assert described(engine) == (status, points, indexed)
    engine.close()


def test_closing_gives_up_what_is_being_built(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path, quiet_s=0)
    config = {"vectors": {"image": {"size": DIMENSION, "distance": "Cosine"}}}
    engine.answer("PUT", "/collections/a", config | {"optimizers_config": {"indexing_threshold": 1}})
    write(engine, 0, COUNT)
    deadline = time.monotonic() + 60
    while engine._graphs.building is None and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.close()
    assert len(list((tmp_path / "shards").iterdir())) == 1
    engine = SharedEngine(tmp_path, quiet_s=60)
    assert described(engine)[1] == COUNT
    engine.close()


def test_a_collection_without_a_threshold_gets_no_graphs(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path, quiet_s=0)
    config = {"vectors": {"image": {"size": DIMENSION, "distance": "Cosine"}}}
    engine.answer("PUT", "/collections/a", config | {"optimizers_config": {"indexing_threshold": 0}})
    write(engine, 0, 100)
    assert described(engine)[0] == "green"
    engine.close()
