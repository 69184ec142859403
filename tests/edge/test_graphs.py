"""Graphs are built in the background, while points are written and searched."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.edge.writing import id_of
from tests.processes import command, descendants
from viewfinder.edge.engine import SharedEngine
from viewfinder.edge.graphs import Graphs
from viewfinder.edge.process import ShardProcess
from viewfinder.edge.refusal import Refusal
from viewfinder.errors import StoreUnavailableError

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
    params = {"exact": exact, "quantization": {"rescore": True, "oversampling": 2.0}}
    answer = engine.answer("POST", "/collections/a/points/query", body | {"params": params})
    return [point["payload"]["row"] for point in answer["points"]]


def described(engine: SharedEngine) -> tuple[str, int, int]:
    info = engine.answer("GET", "/collections/a")
    return info["status"], info["points_count"], info["indexed_vectors_count"]


def wait_until_green(engine: SharedEngine) -> None:
    deadline = time.monotonic() + 120
    while described(engine)[0] != "green":
        assert time.monotonic() < deadline
        time.sleep(0.05)


INT8 = {"scalar": {"type": "int8", "always_ram": True}}


@pytest.mark.parametrize("quantization", [None, pytest.param(INT8, marks=pytest.mark.full)], ids=["float32", "int8"])
def test_a_shard_is_replaced_without_losing_writes_or_searches(tmp_path: Path, quantization: Any) -> None:
    engine = SharedEngine(tmp_path, quiet_s=0.3)
    image = {"size": DIMENSION, "distance": "Cosine", "on_disk": True, "quantization_config": quantization}
    config = {"vectors": {"image": image}}
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


CONFIG = {
    "vectors": {"image": {"size": DIMENSION, "distance": "Cosine"}},
    "optimizers_config": {"indexing_threshold": 1},
}


FEW = 2_000


@contextmanager
def building(directory: Path) -> Iterator[tuple[SharedEngine, Callable[[], None]]]:
    """Yield an engine that builds graphs of `FEW` points, and a function that lets that end and waits for it."""
    engine = SharedEngine(directory, quiet_s=0)
    engine.answer("PUT", "/collections/a", CONFIG)
    write(engine, 0, FEW)
    wait_until(lambda: engine._open["a"]._log is not None)
    builders = [pid for pid in descendants(os.getpid()) if "viewfinder.edge.builder" in command(pid)]
    for pid in builders:
        os.kill(pid, signal.SIGSTOP)

    def finish() -> None:
        for pid in builders:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        wait_until(lambda: engine._graphs.building is None)

    try:
        yield engine, finish
    finally:
        engine.close()


def test_a_new_shard_is_searched_before_it_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first searches take long."""
    asked: list[tuple[int, str]] = []
    answer = ShardProcess.answer

    def noted(self: ShardProcess, operation: str, body: Any) -> Any:
        asked.append((self.pid, operation))
        return answer(self, operation, body)

    monkeypatch.setattr(ShardProcess, "answer", noted)
    with building(tmp_path) as (engine, finish):
        finish()
        shard: Any = engine._open["a"]._shard
        operations = [operation for pid, operation in asked if pid == shard.pid]
        assert operations.count("POST flush") == 1
        assert operations[: operations.index("POST flush")].count("POST points/query") > 50


def test_what_builds_graphs_comes_after_other_programs(tmp_path: Path) -> None:
    with building(tmp_path):
        (builder,) = [pid for pid in descendants(os.getpid()) if "viewfinder.edge.builder" in command(pid)]
        lowest = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        os.kill(builder, signal.SIGCONT)
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, builder) == lowest)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows(engine: SharedEngine) -> list[int]:
    points = engine.answer("POST", "/collections/a/points/scroll", {"limit": COUNT})["points"]
    return sorted(each["payload"]["row"] for each in points)


def rows_after_reopening(directory: Path) -> list[int]:
    engine = SharedEngine(directory, quiet_s=60)
    try:
        return rows(engine)
    finally:
        engine.close()


def test_writes_after_the_death_of_the_process_are_kept_when_graphs_were_being_built(tmp_path: Path) -> None:
    with building(tmp_path) as (engine, finish):
        shard: Any = engine._open["a"]._shard
        os.kill(shard.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailableError):
            rows(engine)
        write(engine, FEW, 50)
        finish()
        assert rows(engine) == list(range(FEW + 50))
    assert rows_after_reopening(tmp_path) == list(range(FEW + 50))
    assert len(list((tmp_path / "shards").iterdir())) == 1


@pytest.mark.parametrize("again", [True, False])
def test_a_collection_that_is_dropped_while_graphs_are_built_does_not_come_back(tmp_path: Path, again: bool) -> None:
    with building(tmp_path) as (engine, finish):
        engine.answer("DELETE", "/collections/a")
        if again:
            engine.answer("PUT", "/collections/a", CONFIG | {"optimizers_config": {"indexing_threshold": 0}})
            write(engine, 300, 5)
        finish()
        assert engine._graphs._thread.is_alive()
        assert engine.exists("a") == again
    assert len(list((tmp_path / "shards").iterdir())) == again
    assert not again or rows_after_reopening(tmp_path) == list(range(300, 305))


def test_updates_that_a_full_disk_does_not_take_again_are_not_lost(tmp_path: Path) -> None:
    with building(tmp_path) as (engine, finish):
        write(engine, FEW, 50)
        graphs, opening = engine._graphs, engine._graphs._open_shard
        graphs._open_shard = lambda place: opening(replace(place, min_free_bytes=2**60))
        finish()
        assert engine.registry.collections["a"].graph_points == 0
        assert rows(engine) == list(range(FEW + 50))


def test_a_refused_update_is_not_made_by_the_shard_with_graphs(tmp_path: Path) -> None:
    with building(tmp_path) as (engine, finish):
        shard: Any = engine._open["a"]._shard
        answer = shard.answer
        shard.answer = lambda operation, body: _refuse() if operation == "PUT points" else answer(operation, body)
        with pytest.raises(Refusal):
            write(engine, FEW, 50)
        finish()
        assert engine.registry.collections["a"].graph_points == FEW
        assert rows(engine) == list(range(FEW))


def _refuse() -> None:
    raise Refusal(500, "No space left on device")


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_points_without_a_graph_are_known_after_the_next_opening(tmp_path: Path, killed: bool) -> None:
    """Points that were written again counted as having the graph of the former ones, so searches stayed slow."""
    with building(tmp_path) as (_, finish):
        finish()
    engine = SharedEngine(tmp_path, quiet_s=60)
    assert described(engine)[:2] == ("green", FEW)
    write(engine, 0, FEW)
    assert described(engine)[:2] == ("yellow", FEW)
    registry = tmp_path / "registry.json"
    wait_until(lambda: json.loads(registry.read_text())["collections"]["a"]["unbuilt"] > FEW // 10)
    before = registry.read_text()
    engine.close()
    if killed:
        registry.write_text(before)
    engine = SharedEngine(tmp_path, quiet_s=60)
    assert described(engine)[:2] == ("yellow", FEW)
    assert engine._open["a"].unbuilt == FEW
    engine.close()
    engine = SharedEngine(tmp_path, quiet_s=0)
    wait_until_green(engine)
    assert (engine._open["a"].unbuilt, *described(engine)) == (0, "green", FEW, FEW)
    engine.close()


def test_graphs_that_cannot_be_built_have_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A re-index waited for them for twelve hours."""
    monkeypatch.setattr(Graphs, "_build", lambda *_: _refuse())
    engine = SharedEngine(tmp_path, quiet_s=0)
    engine.answer("PUT", "/collections/a", CONFIG)
    write(engine, 0, 500)
    wait_until(lambda: described(engine)[0] == "green")
    assert engine.answer("GET", "/collections/a")["optimizer_status"] == {"error": "No space left on device"}
    assert engine._graphs._failures["a"].pause_s == 60
    monkeypatch.undo()
    engine._graphs._failures["a"] = replace(engine._graphs._failures["a"], retry_at=0)
    wait_until(lambda: described(engine) == ("green", 500, 500))
    assert engine.answer("GET", "/collections/a")["optimizer_status"] == "ok"
    engine.close()
