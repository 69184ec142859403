"""The embedded store without Ray: one holder at a time, no data lost."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pytest

from viewfinder.errors import StoreBusyError, StoreError
from viewfinder.store import Collection, PointBatch, Search, Store, StoreAddress
from viewfinder.store.directory import Holder, code_version, open_directory, store_directory
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# Writes 40 points, prints "written", and waits until its input is closed.
PROGRAM = """
import sys
from pathlib import Path
from tests.store.test_directory import opened, write
with opened(Path(sys.argv[1])) as store:
    write(store, 0, 40)
    print("written", flush=True)
    sys.stdin.read()
"""


@contextmanager
def opened(data_dir: Path, *, wait_s: float = 0.2) -> Iterator[Store]:
    with Store(open_directory(data_dir, wait_s=wait_s), StoreAddress(data_dir, retry_s=0)) as store:
        yield store


def collection(store: Store) -> Collection:
    return store.collections.open("images", ModelIdentity("m", "f00d", 2))


def write(store: Store, first: int, count: int) -> None:
    ids = [str(uuid5(NAMESPACE_URL, str(number))) for number in range(first, first + count)]
    vectors = np.ones((count, 2), np.float32)
    store.points.upsert(collection(store), PointBatch(ids, [{"etag": "e"}] * count, image=vectors), wait=True)


@contextmanager
def program(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another program that holds the directory and has written 40 points."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data_dir)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_program_is_refused_with_the_holder_in_the_message(tmp_path: Path) -> None:
    with program(tmp_path) as holder:
        with pytest.raises(StoreBusyError) as caught, opened(tmp_path):
            pass
        for part in (
            f"process {holder.pid} (python)",
            f"'kill {holder.pid}'",
            socket.gethostname(),
            "without Ray",
            "docker run",
            "VIEWFINDER_QDRANT_URL",
        ):
            assert part in str(caught.value)
        assert caught.value.exit_status == 1


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["/venv/bin/viewfinder", "index", "s3://bucket"], "viewfinder index"),
        (["/venv/lib/viewfinder/__main__.py", "takedown", "x"], "viewfinder takedown"),
        (["jobs/index.py", "s3://bucket"], "index.py"),
        ([""], "python"),
    ],
)
def test_a_holder_is_named_by_its_command_without_arguments(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], program: str
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    assert f" ({program}) on " in str(Holder.here(None))
    assert Holder.here("127.0.0.1:6379").program is None


def test_a_killed_holder_leaves_the_store_unlocked_and_complete(tmp_path: Path) -> None:
    with program(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    left = Holder.read(store_directory(tmp_path))
    assert left is not None
    assert left.pid == holder.pid
    with opened(tmp_path, wait_s=30) as store:  # the processes of its collections end a moment later
        assert store.points.count(collection(store)) == 40
        assert {
            state.etag for state in store.points.states(collection(store), [str(uuid5(NAMESPACE_URL, "39"))]).values()
        } == {"e"}


def test_a_waiting_program_gets_the_store_when_the_holder_closes_it(tmp_path: Path) -> None:
    first = open_directory(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(open_directory, tmp_path, wait_s=60)
        first.close()
        second.result().close()


def test_holder_json_names_this_process_while_it_holds_the_store(tmp_path: Path) -> None:
    note = store_directory(tmp_path) / "holder.json"
    client = open_directory(tmp_path)
    record = json.loads(note.read_text())
    assert (record["pid"], record["host"], record["ray_address"]) == (os.getpid(), socket.gethostname(), None)
    assert record["code"] == code_version()
    client.close()
    client.close()
    assert not note.exists()


@pytest.mark.parametrize(
    "content",
    ["", "[1]", '{"pid": 1}', '{"pid": 999999999, "host": "h", "since": "", "code": "", "ray_address": null}'],
)
def test_a_stale_or_damaged_holder_json_does_not_prevent_opening(tmp_path: Path, content: str) -> None:
    directory = store_directory(tmp_path)
    directory.mkdir()
    (directory / "holder.json").write_text(content)
    with opened(tmp_path) as store:
        assert store.collections.live("images") is None


def test_a_data_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/qdrant.*VIEWFINDER_DATA_DIR"), opened(tmp_path / "file"):
        pass


@pytest.mark.parametrize("name", ["holder.json", "registry.json"])
def test_a_directory_with_a_file_that_cannot_be_used_is_named_and_left_as_it_was(tmp_path: Path, name: str) -> None:
    directory = store_directory(tmp_path)
    (directory / name).mkdir(parents=True)
    for _ in range(2):  # the first one has left it unlocked
        with pytest.raises(StoreError, match=rf"{name}.*VIEWFINDER_DATA_DIR"), opened(tmp_path):
            pass
    assert {each.name for each in directory.iterdir()} == {name, "holder.lock"}


def test_concurrent_writes_and_searches_lose_no_points(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        made = collection(store)
        with ThreadPoolExecutor(8) as pool:
            writes: list[Future[Any]] = [pool.submit(write, store, 20 * part, 20) for part in range(16)]
            searches = [pool.submit(store.search.nearest, made, [1.0, 1.0], limit=3) for _ in range(16)]
            for each in [*writes, *searches]:
                each.result()
    with opened(tmp_path) as store:
        assert store.points.count(collection(store)) == 320


def test_what_a_program_does_with_a_payload_does_not_change_the_stored_one(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        batch = PointBatch(
            [str(uuid5(NAMESPACE_URL, "0"))], [{"meta": {"tags": ["a"]}}], image=np.ones((1, 2), np.float32)
        )
        store.points.upsert(collection(store), batch, wait=True)
        (read,) = store.points.records(collection(store), batch.ids).values()
        read.payload["meta"]["tags"].append("b")
        (again,) = store.points.records(collection(store), batch.ids).values()
        assert again.payload["meta"] == {"tags": ["a"]}


def test_the_index_of_words_survives_reopening(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        batch = PointBatch(
            [str(uuid5(NAMESPACE_URL, "0"))], [{"caption": "a red car"}], image=np.ones((1, 2), np.float32)
        )
        store.points.upsert(collection(store), batch, wait=True)
    with opened(tmp_path) as store:
        assert len(store.search.many(collection(store), [Search(words="car")])[0]) == 1


def test_searches_do_not_wait_for_writes_that_wait_for_a_copy(tmp_path: Path) -> None:
    client = open_directory(tmp_path)
    with Store(client, StoreAddress(tmp_path, retry_s=0)) as store, ThreadPoolExecutor(2) as pool:
        write(store, 0, 20)
        made = collection(store)
        with client._engine._open[made.name].updates_paused():
            writing = pool.submit(write, store, 20, 20)
            with pytest.raises(TimeoutError):
                writing.result(timeout=0.2)
            assert len(pool.submit(store.search.nearest, made, [1.0, 1.0], limit=3).result(timeout=30)) == 3
        writing.result()
        assert store.points.count(made) == 40
