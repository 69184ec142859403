"""The build lease: one holder at a time, whoever is killed, whenever they come."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from viewfinder.errors import StoreBusyError
from viewfinder.reindexing.upgrade_lock import SUBJECT, Holding, Lease, standing
from viewfinder.store import Store, StoreAddress
from viewfinder.store.control import Control
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    openapi = os.environ.get("QDRANT_OPENAPI")
    with QdrantDouble(openapi=Path(openapi) if openapi else None) as double:
        address = StoreAddress(data_dir=tmp_path, url=double.url, retry_s=0)
        with Store(ServerClient(address), address) as store:
            yield store.control("pictures")
        assert double.invalid == []


def lease(control: Control, now: datetime = NOON, run_id: str = "run") -> Lease:
    return Lease(control, run_id, ttl_s=60, clock=lambda: now)


def elsewhere(control: Control, until: datetime, **changes: object) -> Holding:
    """A lease that another machine holds."""
    holding = Holding("other", "their run", "far-away", 1, until.isoformat(timespec="milliseconds"))
    note = asdict(holding) | changes
    control.write("lease", {SUBJECT: note})
    return Holding.parse(note)


def test_a_lease_is_held_and_let_go(control: Control) -> None:
    with lease(control) as held:
        assert (holding := standing(control)) is not None
        assert (holding.pid, holding.run_id) == (os.getpid(), "run")
        held.check()
    assert standing(control) is None


def test_a_second_job_is_refused_and_told_who_builds(control: Control) -> None:
    elsewhere(control, NOON + timedelta(seconds=30))
    with pytest.raises(StoreBusyError, match="process 1 on far-away, run their run"):
        lease(control).take()


def test_an_expired_lease_is_taken_over_and_its_holder_finds_out(control: Control) -> None:
    slow = lease(control)
    slow.take()
    fast = lease(control, NOON + timedelta(seconds=61))
    fast.take()
    with pytest.raises(StoreBusyError, match="lost its build lease"):
        slow.check()
    slow.release()
    assert standing(control) is not None, "a lease that another holds is not released"
    fast.check()


def test_a_lease_is_renewed_by_a_check(control: Control) -> None:
    now = NOON
    held = Lease(control, "run", ttl_s=60, clock=lambda: now)
    held.take()
    now += timedelta(seconds=50)
    held.check()
    with pytest.raises(StoreBusyError):
        lease(control, NOON + timedelta(seconds=100)).take()


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(control: Control) -> None:
    own = lease(control)
    own.take()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        holding = standing(control)
        assert holding is not None
        started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        elsewhere(control, NOON + timedelta(seconds=30), pid=child.pid, machine=holding.machine, process=started)
        with pytest.raises(StoreBusyError, match=f"process {child.pid}"):
            lease(control).take()
    finally:
        child.kill()
        child.communicate()
    lease(control).take()


def test_of_many_that_come_at_once_one_gets_it(control: Control) -> None:
    def attempt(number: int) -> bool:
        try:
            lease(control, run_id=f"run-{number}").take()
        except StoreBusyError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_of_many_that_find_it_expired_one_gets_it(control: Control) -> None:
    elsewhere(control, NOON - timedelta(seconds=1))
    results = []

    def attempt(number: int) -> None:
        try:
            lease(control, run_id=f"run-{number}").take()
            results.append(number)
        except StoreBusyError:
            pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(attempt, range(16)))
    assert len(results) == 1
