"""The registry of a store and the folders beside it: older copies, damage, deletions, and who waits for it."""

import errno
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.edge.engines import SCHEMA, made, numbers, put
from viewfinder.edge import registry
from viewfinder.edge.engine import Engine, SharedEngine
from viewfinder.edge.refusal import Refusal
from viewfinder.edge.registry import Registry
from viewfinder.errors import StoreError

pytestmark = pytest.mark.slow

EMPTY_REGISTRY = {"format": 1, "collections": {}, "aliases": {}}


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """An empty folder replaced it, so searches found nothing without an error."""
    engine = made(tmp_path)
    put(engine, 1)
    engine.close()
    (folder,) = (tmp_path / "shards").iterdir()
    shutil.rmtree(folder)
    engine = Engine(tmp_path)
    for method, path in (("POST", "/collections/a/points/count"), ("GET", "/collections/a")):
        with pytest.raises(Refusal, match=f"{folder} is missing. Restore it from a backup"):
            engine.answer(method, path, {})
    assert engine.answer("DELETE", "/collections/a")
    engine.close()


def test_an_older_registry_deletes_no_points(tmp_path: Path) -> None:
    """Each build of graphs renames the folder. A restored copy of the registry deleted the one that had all points."""
    engine = made(tmp_path)
    put(engine, 1, 2)
    engine.close()
    (former,) = (tmp_path / "shards").iterdir()
    later = former.rename(former.with_name("later"))
    engine = Engine(tmp_path)
    with pytest.raises(Refusal, match=f"{former} is missing.* may be in later beside it: rename that folder"):
        numbers(engine)
    engine.close()
    later.rename(former)
    engine = Engine(tmp_path)
    assert numbers(engine) == [1, 2]
    engine.close()


@pytest.mark.parametrize("later", ["a collection", "points"])
def test_a_registry_of_an_earlier_time_deletes_no_points(
    later: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It knew nothing of the folder, and so the folder was taken for one that a killed program had left."""
    engine = Engine(tmp_path)
    if later == "points":
        engine.answer("PUT", "/collections/a", SCHEMA)
    former = (tmp_path / "registry.json").read_text() if later == "points" else json.dumps(EMPTY_REGISTRY)
    if later == "a collection":
        engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1, 2)
    engine.close()
    newer = (tmp_path / "registry.json").read_text()
    (folder,) = (tmp_path / "shards").iterdir()
    if later == "points":  # and their graphs were built
        newer = newer.replace(folder.name, "later")
        folder = folder.rename(folder.with_name("later"))
    (tmp_path / "registry.json").write_text(former)
    Engine(tmp_path).close()
    assert f"No collection of the embedded store has the points in {folder}" in caplog.text
    (tmp_path / "registry.json").write_text(newer)
    engine = Engine(tmp_path)
    assert numbers(engine) == [1, 2]
    engine.close()


def test_a_registry_that_is_replaced_and_perhaps_not_on_disk_is_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory went back to what it was before, so that the shard which the file names was deleted."""
    engine = made(tmp_path)
    monkeypatch.setattr(registry, "sync", lambda _: _refuse_to_sync())
    engine.answer("PUT", "/collections/b", SCHEMA)
    assert engine.exists("b")
    assert "b" in json.loads((tmp_path / "registry.json").read_text())["collections"]
    assert "may be lost if the machine stops now" in caplog.text
    engine.close()


def _refuse_to_sync() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    engine = made(tmp_path)
    actions = [
        {"create_alias": {"alias_name": "live", "collection_name": "a"}},
        {"create_alias": {"alias_name": "next", "collection_name": "missing"}},
    ]
    with pytest.raises(Refusal, match="missing") as refused:
        engine.answer("POST", "/collections/aliases", {"actions": actions})
    assert refused.value.status == 404
    assert engine.answer("GET", "/aliases") == {"aliases": []}
    engine.close()


def test_searches_do_not_wait_until_the_registry_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that also stores new graphs needs long for it."""
    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    writes, goes_on = threading.Event(), threading.Event()

    def write_slowly(_: Registry) -> None:
        writes.set()
        assert goes_on.wait(60)

    monkeypatch.setattr(Registry, "_write", write_slowly)
    index = {"field_name": "number", "field_schema": "integer"}
    change = threading.Thread(target=engine.answer, args=("PUT", "/collections/a/index", index))
    with ThreadPoolExecutor() as pool:
        change.start()
        assert writes.wait(60)
        try:
            assert pool.submit(numbers, engine).result(timeout=30) == [1]
            pool.submit(put, engine, 2).result(timeout=30)
        finally:
            goes_on.set()
    change.join()
    engine.close()


def test_a_dropped_collection_leaves_no_files_and_no_alias(tmp_path: Path) -> None:
    engine = made(tmp_path)
    put(engine, 1)
    create = {"create_alias": {"alias_name": "live", "collection_name": "a"}}
    engine.answer("POST", "/collections/aliases", {"actions": [create]})
    assert engine.answer("DELETE", "/collections/a")
    assert not engine.exists("live")
    assert list((tmp_path / "shards").iterdir()) == []
    assert not engine.answer("DELETE", "/collections/a")
    engine.close()


def test_a_collection_whose_deletion_cannot_be_noted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it was open, but not known as such, and could not be opened again."""

    def fill_disk(self: Registry) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    engine = SharedEngine(tmp_path)
    engine.answer("PUT", "/collections/a", SCHEMA)
    put(engine, 1)
    with monkeypatch.context() as full:
        full.setattr(Registry, "_write", fill_disk)
        with pytest.raises(OSError, match="No space"):
            engine.answer("DELETE", "/collections/a")
    put(engine, 2)
    assert numbers(engine) == [1, 2]
    engine.answer("DELETE", "/collections/a")
    assert not engine.exists("a")
    assert not list((tmp_path / "shards").iterdir())
    engine.close()


def test_files_of_a_killed_program_are_removed(tmp_path: Path) -> None:
    made(tmp_path).close()
    for left in ("shards/0123.new", "shards/4567"):
        (tmp_path / left).mkdir(parents=True)
    for name in ("4567.log", "4567.doomed", "89ab.doomed"):
        (tmp_path / "shards" / name).touch()
    (tmp_path / "registry.new").write_text("{")
    Engine(tmp_path).close()
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize(
    "damage", ["", "{", '{"format": 1}', '{"format": 1, "collections": {"a": 1}, "aliases": {}}', "[]"]
)
def test_a_damaged_registry_is_named_and_kept(tmp_path: Path, damage: str) -> None:
    made(tmp_path).close()
    (tmp_path / "registry.json").write_text(damage)
    with pytest.raises(StoreError, match=r"registry\.json, is damaged: .*Restore that file"):
        Engine(tmp_path)
    assert (tmp_path / "registry.json").read_text() == damage


def test_a_missing_registry_beside_collections_is_named(tmp_path: Path) -> None:
    engine = made(tmp_path)
    put(engine, 1)
    engine.close()
    (tmp_path / "registry.json").unlink()
    with pytest.raises(StoreError, match=r"registry\.json, is missing"):
        Engine(tmp_path)


def test_a_directory_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text('{"format": 99, "collections": {}, "aliases": {}}')
    with pytest.raises(StoreError, match=r"format 99; .* Upgrade viewfinder"):
        Engine(tmp_path)
    (tmp_path / "registry.json").unlink()
    (tmp_path / "meta.json").write_text('{"collections": {}}')  # of qdrant-client's local mode
    with pytest.raises(StoreError, match=r"made by another version .* index again"):
        Engine(tmp_path)
