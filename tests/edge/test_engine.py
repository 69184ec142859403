"""The embedded engine by itself: its collections, their processes and their log."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.edge.engines import SCHEMA, kill_process, made, numbers, put
from tests.edge.writing import id_of
from viewfinder.edge import templates
from viewfinder.edge.builder import BuilderProcess
from viewfinder.edge.collection import UPDATES, OpenCollection
from viewfinder.edge.engine import Engine, SharedEngine
from viewfinder.edge.groups import query_groups
from viewfinder.edge.refusal import Refusal
from viewfinder.edge.shard import _OPERATIONS, Shard
from viewfinder.edge.templates import ShardPlace
from viewfinder.edge.updates import points_in
from viewfinder.errors import StoreUnavailableError

pytestmark = pytest.mark.slow


def test_collections_aliases_and_metadata_survive_closing(tmp_path: Path) -> None:
    engine = made(tmp_path)
    put(engine, 1, 2)
    engine.answer("PATCH", "/collections/a", {"metadata": {"y": [2]}})
    create = {"create_alias": {"alias_name": "live", "collection_name": "a"}}
    engine.answer("POST", "/collections/aliases", {"actions": [create]})
    engine.close()
    engine = Engine(tmp_path)
    assert numbers(engine, "live") == [1, 2]
    assert engine.answer("GET", "/collections/live")["config"]["metadata"] == {"x": 1, "y": [2]}
    engine.close()


def test_the_log_is_short_however_much_was_written(tmp_path: Path) -> None:
    """A store of 200,000 points that was killed read its log for a minute, and copied it for the graphs."""
    engine = SharedEngine(tmp_path, flush_points=10)
    engine.answer("PUT", "/collections/a", SCHEMA)
    for number in range(25):
        put(engine, number)
    (log,) = tmp_path.glob("shards/*/wal/first-index")
    assert json.loads(log.read_text())["ack_index"] == 19
    engine.close()


def test_searches_rarely_wait_for_the_log(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path, flush_points=10)
    engine.answer("PUT", "/collections/a", SCHEMA)
    flushed = set()
    for number in range(115):
        engine.answer("POST", "/collections/a/points/query", {"query": [1, 0, 0, 0], "using": "image"})
        put(engine, number)
        flushed |= {json.loads(each.read_text())["ack_index"] for each in tmp_path.glob("shards/*/wal/first-index")}
    assert max(flushed) == 99
    assert len(flushed) <= 2
    kill_process(engine)
    with pytest.raises(StoreUnavailableError):
        put(engine, 115)
    engine.answer("POST", "/collections/a/points/query", {"query": [1, 0, 0, 0], "using": "image"})
    put(engine, 115)  # what a killed process has left is flushed first
    (log,) = tmp_path.glob("shards/*/wal/first-index")
    assert json.loads(log.read_text())["ack_index"] == 114
    engine.close()


def test_many_kills_do_not_let_the_log_grow(tmp_path: Path) -> None:
    """Each process began to count anew, and none wrote the log of its predecessors."""
    for number in range(3):
        engine = SharedEngine(tmp_path, flush_points=10)
        if number == 0:
            engine.answer("PUT", "/collections/a", SCHEMA)
        for each in range(9):
            put(engine, 10 * number + each)
        kill_process(engine)
        engine.close()
    (log,) = tmp_path.glob("shards/*/wal/first-index")
    assert json.loads(log.read_text())["ack_index"] >= 17


class Recorded:
    """A shard that notes its operations, and refuses to flush if it is `full`."""

    def __init__(self) -> None:
        self.operations: list[str] = []
        self.full = False

    def answer(self, operation: str, body: Any) -> Any:
        self.operations.append(operation)
        if operation == "POST flush" and self.full:
            raise Refusal(500, "no space")
        return {"points_count": 0} if operation == "GET info" else None

    def close(self) -> None:
        pass

    retire = close


def test_an_update_that_cannot_be_written_to_disk_is_not_made() -> None:
    """It was made and refused, so the next graphs were without it."""
    shard = Recorded()
    collection = OpenCollection("a", shard, flush_points=2)
    collection.answer("POST points/delete", {"points": [1, 2]})
    shard.full = True
    with pytest.raises(Refusal, match="no space"):
        collection.answer("POST points/delete", {"points": [3]})
    assert shard.operations[-2:] == ["POST points/delete", "POST flush"]


def test_nothing_is_flushed_while_graphs_are_built(tmp_path: Path) -> None:
    """A search waited 0.8 s for a disk that was busy with the graphs."""
    shard, built = Recorded(), Recorded()
    collection = OpenCollection("a", shard, flush_points=2)
    collection.record(tmp_path / "log")
    for _ in range(3):
        collection.answer("POST points/delete", {"points": [1, 2]})
    collection.replace(built, lambda: None)
    assert "POST flush" not in shard.operations
    collection.answer("POST points/delete", {"points": [3]})
    assert built.operations == ["POST flush", *["POST points/delete"] * 4]  # before it answers searches


@pytest.mark.parametrize(
    ("body", "points"),
    [
        ({"points": ["a", "b"]}, 2),
        ({"points": []}, 0),
        ({"batch": {"ids": [1, 2, 3]}}, 3),
        ({"filter": {"must": [{"should": [{"has_id": [1, 2]}, {"has_id": [3]}]}]}, "payload": {}}, 3),
        ({"filter": {"must": [{"key": "of", "match": {"value": 1}}]}}, 1),
    ],
)
def test_an_update_counts_the_points_that_it_names(body: dict[str, Any], points: int) -> None:
    assert points_in(body) == points


BAD = [
    {"points": [{"id": id_of(2), "vector": {"image": [1, 0, 0, 0]}}, {"id": id_of(3), "vector": {"image": [1, 0]}}]},
    {"points": [{"id": id_of(2), "vector": {"other": [1, 0, 0, 0]}}]},
    {"batch": {"ids": [id_of(2), id_of(3)], "vectors": {"image": [[1, 0, 0, 0], [1]]}}},
]


@pytest.mark.parametrize("body", BAD, ids=["size", "name", "columns"])
def test_an_update_that_was_refused_is_not_made_after_a_kill(tmp_path: Path, body: dict[str, Any]) -> None:
    """The engine logs an update before it looks at it, and read the valid part again."""
    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    with pytest.raises(Refusal, match="Wrong input") as refused:
        engine.answer("PUT", "/collections/a/points", body)
    assert refused.value.status == 400
    kill_process(engine)
    with pytest.raises(StoreUnavailableError):
        numbers(engine)
    assert engine.answer("POST", "/collections/a/points/count", {}) == {"count": 1}
    engine.close()


def test_the_processes_import_nothing_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` ran a `signal.py` that lay among the images."""
    (tmp_path / "here").mkdir()
    for name in ("signal", "socket", "ctypes", "qdrant_edge", "viewfinder"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('imported from the current directory')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend("")  # as in a notebook
    engine = SharedEngine(tmp_path, quiet_s=0)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    BuilderProcess().kill()
    engine.close()


def test_payload_indexes_are_there_before_and_after_the_first_point(tmp_path: Path) -> None:
    engine = made(tmp_path)
    schemas = {"number": "integer", "words": {"type": "text", "scoring": True}, "later": "keyword"}
    for field in ("number", "words"):
        engine.answer("PUT", "/collections/a/index", {"field_name": field, "field_schema": schemas[field]})
    put(engine, 1, words="red car", later="x")
    engine.answer("PUT", "/collections/a/index", {"field_name": "later", "field_schema": schemas["later"]})
    assert engine.answer("POST", "/collections/a/facet", {"key": "later"}) == {"hits": [{"value": "x", "count": 1}]}
    words = {"query": {"text": "car"}, "using": "words"}
    assert len(engine.answer("POST", "/collections/a/points/query", words)["points"]) == 1
    assert engine.answer("GET", "/collections/a")["payload_schema"].keys() == schemas.keys()
    engine.close()


def test_an_index_that_a_killed_program_had_not_made_is_made_when_the_collection_is_opened(tmp_path: Path) -> None:
    engine = made(tmp_path)
    put(engine, 1)
    engine.close()
    record = json.loads((tmp_path / "registry.json").read_text())
    record["collections"]["a"]["indexes"] = {"number": "integer"}
    (tmp_path / "registry.json").write_text(json.dumps(record))
    engine = Engine(tmp_path)
    assert engine.answer("POST", "/collections/a/facet", {"key": "number"})["hits"] == [{"value": 1, "count": 1}]
    engine.close()


def test_a_full_disk_refuses_writes_and_answers_searches(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path, min_free_bytes=0)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    engine.close()
    engine = SharedEngine(tmp_path, min_free_bytes=2**60)
    with pytest.raises(Refusal, match="No space left on device"):
        put(engine, 2)
    assert numbers(engine) == [1]
    engine.close()


def test_a_shard_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    (tmp_path / "shards").touch()  # where a folder should be
    with pytest.raises(Refusal, match="cannot be made"):
        put(engine, 1)
    engine.close()


def test_a_collection_whose_process_was_killed_is_opened_again(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    kill_process(engine)
    with pytest.raises(StoreUnavailableError, match="has ended"):
        numbers(engine)
    assert numbers(engine) == [1]
    engine.close()


def test_points_without_a_graph_are_counted_when_a_process_is_killed(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    engine.registry.collections["a"].graph_points = 1  # as if its graph had been built
    put(engine, 1)
    kill_process(engine)
    with pytest.raises(StoreUnavailableError):
        numbers(engine)
    engine.close()
    assert json.loads((tmp_path / "registry.json").read_text())["collections"]["a"]["unbuilt"] == 2


def test_every_operation_that_changes_points_is_known_as_an_update() -> None:
    """The others are not repeated on the shard that replaces another."""
    reads = {"GET info", "POST points", "POST facet", "POST flush"}
    assert {each for each in _OPERATIONS if not each.startswith(("POST points/scroll", "POST points/count"))} - {
        each for each in _OPERATIONS if each.startswith("POST points/query")
    } - reads == UPDATES


def test_an_interrupted_call_does_not_answer_the_next_one(tmp_path: Path) -> None:
    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    shard: Any = engine._open["a"]._shard
    shard._connection = _Interrupted(shard._connection)
    with pytest.raises(KeyboardInterrupt):
        engine.answer("POST", "/collections/a/points/count", {})
    with pytest.raises(StoreUnavailableError):
        numbers(engine)
    assert numbers(engine) == [1]
    engine.close()


class _Interrupted:
    """A connection on which Ctrl-C is pressed while it waits for an answer."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.send, self.close = connection.send, connection.close

    def recv(self) -> Any:
        raise KeyboardInterrupt


def test_empty_shards_are_not_made_in_memory_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_MIN_FREE_MEMORY", 2**60)
    assert templates._folder(tmp_path) != tmp_path


class Searched:
    """A shard that counts the points it was asked for."""

    def __init__(self, shard: Any) -> None:
        self._shard = shard
        self.points = 0

    def query(self, request: Any) -> Any:
        self.points += request.limit
        return self._shard.query(request)


def test_groups_of_a_field_with_few_values_do_not_search_all_points(tmp_path: Path) -> None:
    engine = made(tmp_path)
    for kind in ("x", "y"):
        put(engine, *range(400 * ord(kind), 400 * ord(kind) + 400), kind=kind, both=[kind, "z"])
    shard: Any = engine._open["a"]._shard
    for field, values in (("kind", {"x", "y"}), ("both", {"x", "y", "z"})):
        searched = Searched(shard._shard)
        body = {"query": [1.0, 0, 0, 0], "using": "image", "group_by": field, "limit": 10, "group_size": 2}
        groups = query_groups(searched, body)  # type: ignore[arg-type]  # in place of an EdgeShard
        assert {each["id"] for each in groups} == values
        assert all(len(each["hits"]) == 2 for each in groups)
        assert searched.points < 100
    engine.close()


def test_payload_indexes_are_in_mapped_files(tmp_path: Path) -> None:
    """Regression: to open a million points took 13 s, in which their indexes were read into memory."""
    text = {"type": "text", "scoring": True}
    indexes = {"name": "keyword", "uuid": "uuid", "width": {"type": "integer", "on_disk": False}, "words": text}
    shard = Shard(ShardPlace(tmp_path / "shard", {"vectors": {"": {"size": 4, "distance": "Cosine"}}}, indexes))
    shard.answer("PUT index", {"field_name": "later", "field_schema": "bool"})
    made = shard._shard.info().payload_schema
    assert {name: each.params.on_disk for name, each in made.items()} == dict.fromkeys([*indexes, "later"], True)
    assert made["words"].params.scoring
    shard.close()
