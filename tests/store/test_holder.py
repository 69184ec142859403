"""The actor that holds the embedded store for several programs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import numpy as np
import pytest

from viewfinder.cluster.session import RaySession, start_ray
from viewfinder.errors import StoreBusyError
from viewfinder.store import PointBatch, Store, StoreAddress, connect, embedded, open_local
from viewfinder.store.directory import Holder, code_version, open_directory, store_directory
from viewfinder.store.embedded import close_holder
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]

# Joins or starts a Ray, writes points, prints the counts, and exits cleanly when its input is closed.
PROGRAM = """
import json, sys
from pathlib import Path
from tests.store.test_holder import points_of, write
from viewfinder.cluster.session import start_ray
from viewfinder.store import StoreAddress, connect
address = StoreAddress(Path(sys.argv[1]), retry_s=20)
with start_ray(address, num_cpus=2, include_dashboard=False) as session, connect(address) as store:
    before = points_of(store)
    write(store, sys.argv[2])
    print(json.dumps({"owned": session.owned, "before": before, "after": points_of(store)}), flush=True)
    sys.stdin.read()
"""


def write(store: Store, word: str) -> None:
    """Write 40 points with ids made of `word`: more than the holder takes in one call."""
    ids = [str(uuid5(NAMESPACE_URL, f"{word}/{row}")) for row in range(40)]
    made = store.collections.open("images", ModelIdentity("m", "f00d", 2))
    store.points.upsert(made, PointBatch(ids, [{"etag": word}] * 40, image=np.ones((40, 2), np.float32)), wait=True)


def points_of(store: Store) -> int:
    live = store.collections.live("images")
    return 0 if live is None else store.points.count(live)


@contextmanager
def program(data_dir: Path, word: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start another program in its own process group; yield it and its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data_dir), word],
        env=environment,
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = (line for line in process.stdout if line.startswith("{"))
            yield process, json.loads(next(lines))
        finally:
            process.communicate()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A running program that has started its own Ray on an empty directory."""
    data_dir = tmp_path_factory.mktemp("shared")
    with program(data_dir, "first") as (_, output):
        yield data_dir, output


@pytest.mark.full
def test_the_first_program_starts_its_own_ray(first: tuple[Path, dict[str, Any]]) -> None:
    assert first[1] == {"owned": True, "before": 0, "after": 40}


@pytest.mark.full
def test_holder_json_contains_the_address_of_the_holders_ray(first: tuple[Path, dict[str, Any]]) -> None:
    holder = Holder.read(store_directory(first[0]))
    assert holder is not None
    assert holder.ray_address is not None
    assert holder.ray_address.rpartition(":")[2].isdecimal()
    assert holder.code == code_version()


def test_a_second_program_joins_the_ray_of_the_first(first: tuple[Path, dict[str, Any]]) -> None:
    before = Holder.read(store_directory(first[0]))
    with program(first[0], "second") as (_, output):
        assert output["owned"] is False
        assert output["before"] >= 40
        assert output["after"] == 80
    assert Holder.read(store_directory(first[0])) == before


@pytest.mark.full
def test_a_program_without_ray_is_refused_with_the_address_of_the_ray(first: tuple[Path, dict[str, Any]]) -> None:
    holder = Holder.read(store_directory(first[0]))
    assert holder is not None
    with pytest.raises(StoreBusyError, match=f"process {holder.pid} on .* in the Ray at {holder.ray_address}"):
        open_directory(first[0], wait_s=0)


@pytest.mark.chaos("Ray", "the embedded store's holder and its Ray are killed")
def test_points_survive_killing_the_holder_and_its_ray(tmp_path: Path) -> None:
    with program(tmp_path, "doomed") as (process, _):
        holder = Holder.read(store_directory(tmp_path))
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
    with Store(open_directory(tmp_path), StoreAddress(tmp_path)) as store:
        assert points_of(store) == 40
        ids = [str(uuid5(NAMESPACE_URL, f"doomed/{row}")) for row in range(40)]
        live = store.collections.live("images")
        assert live is not None
        assert set(store.points.states(live, ids)) == set(ids)


@pytest.mark.full
def test_workers_connect_to_the_store_by_its_address(ray_cluster: StoreAddress) -> None:
    import ray

    @ray.remote(num_cpus=0.1)
    def on_a_worker(address: StoreAddress, index: str) -> int:
        with connect(address) as store:
            made = store.collections.open(index, ModelIdentity("m", "f00d", 2))
            store.points.upsert(made, PointBatch([str(uuid4())], [{}], image=np.ones((1, 2), np.float32)), wait=True)
            return store.points.count(made)

    index = f"w{uuid4().hex[:8]}"
    assert ray.get([on_a_worker.remote(ray_cluster, index) for _ in range(3)])[-1] in (1, 2, 3)
    with connect(ray_cluster) as store:
        live = store.collections.live(index)
        assert live is not None
        assert store.points.count(live) == 3


@pytest.mark.full
@pytest.mark.chaos("Ray", "the embedded store's holder dies under the store in use")
def test_a_store_in_use_restarts_a_killed_holder(ray_cluster: StoreAddress) -> None:
    index = f"d{uuid4().hex[:8]}"
    with connect(ray_cluster) as store:
        made = store.collections.open(index, ModelIdentity("m", "f00d", 2))
        holder = Holder.read(store_directory(ray_cluster.data_dir))
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        store.points.upsert(made, PointBatch([str(uuid4())], [{}], image=np.ones((1, 2), np.float32)), wait=True)
        assert store.points.count(made) == 1
    after = Holder.read(store_directory(ray_cluster.data_dir))
    assert after is not None
    assert after.pid != holder.pid


@pytest.mark.full
def test_releasing_an_owned_ray_closes_the_store(ray_cluster: StoreAddress, tmp_path: Path) -> None:
    address = StoreAddress(tmp_path, retry_s=20)
    start_ray(address)
    with connect(address) as store:
        write(store, "kept")
    RaySession(address, owned=True, joined=False, holds=True).release()
    assert not (store_directory(tmp_path) / "holder.json").exists()
    with Store(open_directory(tmp_path, wait_s=0), address) as store:
        assert points_of(store) == 40


class OldHolder:
    """A holder of another version of the code, with the same three methods."""

    def __init__(self, data_dir: str) -> None:
        self._directory = store_directory(Path(data_dir))
        self._client = open_directory(Path(data_dir))

    def describe(self, wait_s: float) -> Holder:
        return Holder(os.getpid(), "here", "long ago", "0ther", None)

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        return self._client.call(method, **arguments)

    def close(self) -> None:
        self._client.close()
        (self._directory / "closed").touch()


@pytest.mark.full
def test_a_holder_of_another_version_is_closed_and_replaced(ray_cluster: StoreAddress, tmp_path: Path) -> None:
    import ray

    address = StoreAddress(tmp_path, retry_s=20)
    options = embedded._holder_options(tmp_path)
    old = ray.remote(**options)(OldHolder).remote(str(tmp_path))
    ray.get(old.call.remote("create_collection", {"collection_name": "theirs", "vectors_config": {}}))
    start_ray(address)
    assert (store_directory(tmp_path) / "closed").exists()
    with connect(address) as store:
        assert store.connection.call("collection_exists", collection_name="theirs")
    now = Holder.read(store_directory(tmp_path))
    assert now is not None
    assert now.code == code_version()


def test_the_holder_answers_through_a_program_without_ray_and_then_takes_over(
    ray_cluster: StoreAddress, tmp_path: Path
) -> None:
    # Regression: a service beside an index run without Ray was refused after 15 s.
    address = StoreAddress(tmp_path, retry_s=20)
    first = open_local(address)
    write(first, "before")
    with start_ray(address, lock_wait_s=0.2), connect(address) as store:
        assert points_of(store) == 40
        write(store, "beside")
        assert points_of(first) == 80
        first.close()
        write(store, "after")
        assert points_of(store) == 120
        holder = Holder.read(store_directory(tmp_path))
        assert holder is not None
        assert holder.ray_address is not None
        close_holder(tmp_path)
    with open_local(address) as last:
        assert points_of(last) == 120


def test_a_directory_held_by_other_code_raises_store_busy_error(ray_cluster: StoreAddress, tmp_path: Path) -> None:
    """The actor cannot get the lock; its error must arrive unchanged, not as one of Ray's."""
    client = open_directory(tmp_path)
    record = store_directory(tmp_path) / "holder.json"
    record.write_text(record.read_text().replace(code_version(), "0" * 12))
    with pytest.raises(StoreBusyError, match=f"process {os.getpid()}.*without Ray"):
        start_ray(StoreAddress(tmp_path), lock_wait_s=0.2)
    client.close()


def test_a_process_that_has_not_joined_ray_gets_a_clear_error(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from viewfinder.store.embedded import HolderClient\n"
        "try: HolderClient(Path(sys.argv[1])).call('info')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith("StoreError The embedded store is held by a Ray actor")
