"""The upgrade lock: one holder at a time, even if holders are killed or many runs start at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fixtures.qdrant import validating
from viewfinder.backoff import Backoff
from viewfinder.errors import StoreBusyError
from viewfinder.reindexing.upgrade_lock import LockHolder, UpgradeLock, read_holder
from viewfinder.store import Store, StoreAddress
from viewfinder.store.control import Control
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = pytest.mark.slow

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with validating(QdrantDouble) as double:
        address = StoreAddress(data_dir=tmp_path, url=double.url, retry_s=0)
        with Store(ServerClient(address), address) as store:
            yield store.control("images")


def control_on(double: QdrantDouble, node: int, directory: Path) -> Control:
    """The control records as a run sees them that talks to one node of a cluster."""
    address = StoreAddress(data_dir=directory, url=double.urls[node])
    client = ServerClient(address)
    return Store(client, address, Backoff(60, sleep=lambda _: None, clock=lambda: 0.0)).control("images")


def make_lock(control: Control, now: datetime = NOON, run_id: str = "run") -> UpgradeLock:
    return UpgradeLock(control, run_id, ttl_s=60, clock=lambda: now, sleep=lambda seconds: None)


def lock_from_elsewhere(control: Control, expires_at: datetime, **changes: object) -> LockHolder:
    """Write the lock of a run on another machine."""
    holder = LockHolder("other", "other run", "far-away", 1, expires_at.isoformat(timespec="milliseconds"))
    record = asdict(holder) | changes
    control.write("upgrade_lock", {"collections": record})
    return LockHolder.parse(record)


def test_a_lock_is_held_and_released(control: Control) -> None:
    with make_lock(control) as lock:
        assert (holder := read_holder(control)) is not None
        assert (holder.pid, holder.run_id) == (os.getpid(), "run")
        lock.renew()
    assert read_holder(control) is None


def test_a_second_run_is_refused_and_told_who_holds_the_lock(control: Control) -> None:
    lock_from_elsewhere(control, NOON + timedelta(seconds=30))
    with pytest.raises(StoreBusyError, match=r"locked by run other run \(process 1 on far-away\)"):
        make_lock(control).acquire()


def test_an_expired_lock_is_taken_over_and_its_former_holder_is_refused(control: Control) -> None:
    slow = make_lock(control)
    slow.acquire()
    fast = make_lock(control, NOON + timedelta(seconds=61))
    fast.acquire()
    with pytest.raises(StoreBusyError, match="lost the upgrade lock"):
        slow.renew()
    slow.release()
    assert read_holder(control) is not None, "a run does not release the lock of another"
    fast.renew()


def test_a_lock_is_left_to_a_run_whose_clock_is_minutes_behind(control: Control) -> None:
    behind = make_lock(control, NOON - timedelta(minutes=5))
    behind.acquire()

    def renew(seconds: float) -> None:
        behind._clock = lambda: NOON - timedelta(minutes=4)
        behind.renew()

    with pytest.raises(StoreBusyError, match="locked by run run"):
        UpgradeLock(control, "taker", ttl_s=60, clock=lambda: NOON, sleep=renew).acquire()
    behind.renew()


def test_a_lock_that_has_just_expired_is_watched_before_it_is_taken_over(control: Control) -> None:
    waited: list[float] = []
    lock_from_elsewhere(control, NOON - timedelta(minutes=5))
    UpgradeLock(control, "taker", ttl_s=60, clock=lambda: NOON, sleep=waited.append).acquire()
    assert sum(waited) == 60


def test_a_lock_that_expired_long_ago_is_taken_over_at_once(control: Control) -> None:
    lock_from_elsewhere(control, NOON - timedelta(minutes=16))
    UpgradeLock(control, "taker", ttl_s=60, clock=lambda: NOON, sleep=lambda seconds: pytest.fail("waits")).acquire()


def test_renew_extends_the_lock(control: Control) -> None:
    now = NOON
    lock = UpgradeLock(control, "run", ttl_s=60, clock=lambda: now)
    lock.acquire()
    now += timedelta(seconds=50)
    lock.renew()
    with pytest.raises(StoreBusyError):
        make_lock(control, NOON + timedelta(seconds=100)).acquire()


def test_the_lock_of_a_killed_process_on_this_machine_is_taken_over_at_once(control: Control) -> None:
    make_lock(control).acquire()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        own = read_holder(control)
        assert own is not None
        start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        in_30_s = NOON + timedelta(seconds=30)
        lock_from_elsewhere(control, in_30_s, pid=child.pid, machine=own.machine, process_start=start)
        with pytest.raises(StoreBusyError, match=f"process {child.pid}"):
            make_lock(control).acquire()
    finally:
        child.kill()
        child.communicate()
    make_lock(control).acquire()


@pytest.mark.parametrize("expired", [False, True], ids=["unlocked", "expired"])
def test_one_of_many_simultaneous_runs_gets_the_lock(control: Control, expired: bool) -> None:
    if expired:
        lock_from_elsewhere(control, NOON - timedelta(seconds=1))

    def acquires(number: int) -> bool:
        try:
            make_lock(control, run_id=f"run-{number}").acquire()
        except StoreBusyError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(acquires, range(16))) == 1


@pytest.mark.parametrize("expired", [False, True], ids=["unlocked", "expired"])
def test_one_of_two_runs_on_two_nodes_of_a_cluster_gets_the_lock(tmp_path: Path, expired: bool) -> None:
    with QdrantDouble(nodes=3) as double:
        controls = [control_on(double, node, tmp_path) for node in range(3)]
        lock_from_elsewhere(controls[2], NOON + timedelta(seconds=-1 if expired else 30))
        if not expired:
            controls[2].remove("upgrade_lock", ["collections"])

        def acquires(node: int) -> bool:
            try:
                make_lock(controls[node], run_id=f"run-{node}").acquire()
            except StoreBusyError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(acquires, range(2))) == 1
        holders = [read_holder(control) for control in controls]
        assert holders == [holders[0]] * 3, "the replicas agree"


def test_the_lock_is_taken_and_released_while_the_node_of_the_leader_is_down(tmp_path: Path) -> None:
    with QdrantDouble(nodes=3) as double:
        control = control_on(double, 1, tmp_path)
        make_lock(control).acquire()
        double.stop_node(0)
        with pytest.raises(StoreBusyError, match="locked by run run"):
            make_lock(control, run_id="other").acquire()
        with make_lock(control, NOON + timedelta(seconds=61)) as lock:
            lock.renew()
        assert read_holder(control_on(double, 2, tmp_path)) is None


def test_a_lock_whose_write_is_applied_late_is_taken(tmp_path: Path) -> None:
    with QdrantDouble() as double:
        control = control_on(double, 0, tmp_path)
        with make_lock(control):
            pass
        double.faults.append(Fault(late=2, on="PUT .*/points$"))
        make_lock(control, run_id="late").acquire()
        assert (holder := read_holder(control)) is not None
        assert holder.run_id == "late"


def test_the_lock_is_released_by_id(tmp_path: Path) -> None:
    # Strict mode refuses a deletion by a filter on fields without an index, and the lock would stay until it expires.
    with QdrantDouble() as double:
        with make_lock(control_on(double, 0, tmp_path)):
            pass
        deletions = [each.body for each in double.requests if each.path.endswith("/delete")]
        assert [list(each) for each in deletions] == [["points"]]
