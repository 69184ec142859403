"""The embedded store in several programs at once: one holds the directory and answers the others."""

import json
import shutil
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.store.test_directory import collection, program, write
from viewfinder.errors import CollectionMissingError, StoreBusyError, StoreError, StoreUnavailableError
from viewfinder.store import StoreAddress, open_local, open_shared
from viewfinder.store.directory import Holder, SharedClient, open_directory, store_directory
from viewfinder.store.sharing import SocketClient, StoreSocket

pytestmark = pytest.mark.slow


def test_the_second_program_uses_the_store_through_the_first(tmp_path: Path) -> None:
    address = StoreAddress(tmp_path)
    with open_local(address) as first, open_shared(address) as second:
        made = collection(second)
        write(second, 0, 100)
        assert first.points.count(made) == second.points.count(made) == 100
        assert second.search.nearest(made, [1.0, 1.0], limit=3) == first.search.nearest(made, [1.0, 1.0], limit=3)


def test_a_long_call_does_not_keep_others_from_the_socket(tmp_path: Path) -> None:
    """Regression: all calls of a program shared one connection, on which they waited for each other."""
    begun, done = threading.Event(), threading.Event()

    def answer(method: str, path: str, body: object) -> str:
        if path == "/long":
            begun.set()
            done.wait(10)
        return path

    holder = StoreSocket(answer, tmp_path)
    client = SocketClient(holder.path)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(client.answer, "GET", "/long")
        begun.wait(10)
        assert client.answer("GET", "/short") == "/short"
        assert not long.done()
        done.set()
        assert long.result() == "/long"
    client.close()
    with pytest.raises(StoreUnavailableError):
        client.answer("GET", "/short")
    holder.close()


def test_the_first_program_holds_the_store(tmp_path: Path) -> None:
    with open_shared(StoreAddress(tmp_path)), pytest.raises(StoreBusyError):
        open_directory(tmp_path, wait_s=0)


def test_the_next_program_takes_over_when_the_holder_ends(tmp_path: Path) -> None:
    address = StoreAddress(tmp_path)
    first = open_local(address)
    with open_shared(address) as second, open_shared(address) as third:
        made = collection(second)
        write(second, 0, 10)
        first.close()
        write(third, 10, 10)
        assert second.points.count(made) == third.points.count(made) == 20


def test_the_next_program_takes_over_when_the_holder_is_killed(tmp_path: Path) -> None:
    with program(tmp_path) as holder, open_shared(StoreAddress(tmp_path)) as second:
        assert second.points.count(collection(second)) == 40
        left = Holder.read(store_directory(tmp_path))
        assert left is not None
        assert left.pid == holder.pid
        holder.kill()
        holder.wait()
        assert second.points.count(collection(second)) == 40
        assert left.socket is not None
        assert not Path(left.socket).parent.exists()


def test_errors_of_the_holder_are_raised_unchanged(tmp_path: Path) -> None:
    address = StoreAddress(tmp_path)
    with open_local(address), open_shared(address) as second:
        made = collection(second)
        second.collections.drop(made.name)
        with pytest.raises(CollectionMissingError, match=made.name):
            second.points.count(made)
        with pytest.raises(StoreError, match="no_such_method"):
            second.connection.call("no_such_method")


def test_the_socket_is_private_to_the_user_and_removed_with_the_holder(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = open_local(StoreAddress(tmp_path))
    holder = Holder.read(store_directory(tmp_path))
    assert holder is not None
    assert holder.socket is not None
    directory = Path(holder.socket).parent
    assert directory.stat().st_mode & 0o077 == 0
    store.close()
    assert not directory.exists()
    assert "store-socket" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_a_holder_whose_directory_was_deleted_can_be_closed(tmp_path: Path) -> None:
    """It waited for ever: the thread that accepts was woken by a connection, which needs the path of the socket."""
    holder = StoreSocket(lambda *_: None, tmp_path)
    shutil.rmtree(tmp_path)
    closing = threading.Thread(target=holder.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_a_program_may_have_a_time_limit_for_its_sockets(tmp_path: Path) -> None:
    """The holder dropped other programs as soon as they asked nothing."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        holder = StoreSocket(lambda method, path, body: path, tmp_path)
        client = SocketClient(holder.path)
        assert client.answer("GET", "/a") == "/a"
        time.sleep(0.2)
        assert client.answer("GET", "/b") == "/b"
        client.close()
        holder.close()
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.parametrize("name", ["data", "long" * 40])
def test_the_socket_is_in_the_directory_if_its_path_is_short(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="vf-") as parent:
        directory = Path(parent) / name
        directory.mkdir()
        holder = StoreSocket(lambda method, path, body: path, directory)
        assert (directory in Path(holder.path).parents) is (name == "data")
        client = SocketClient(holder.path)
        assert client.answer("GET", "/count") == "/count"
        client.close()
        holder.close()
        assert list(directory.iterdir()) == []
        assert not Path(holder.path).parent.exists()


def test_a_waiting_call_fails_when_the_holder_closes(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def answer(method: str, path: str, body: object) -> None:
        entered.set()
        release.wait(60)

    holder = StoreSocket(answer, tmp_path)
    client = SocketClient(holder.path)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.answer, "GET", "/count")
        assert entered.wait(60)
        holder.close()
        with pytest.raises(StoreUnavailableError, match="held the embedded store has ended"):
            waiting.result(60)
        release.set()
    client.close()


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"code": "0"}, {"socket": "/nowhere"}])
def test_a_holder_that_cannot_be_reached_is_named(tmp_path: Path, change: dict[str, str]) -> None:
    with open_local(StoreAddress(tmp_path)):
        note = store_directory(tmp_path) / "holder.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | change))
        with pytest.raises(StoreBusyError, match="is held by process"):
            SharedClient(tmp_path, wait_s=0.3)
