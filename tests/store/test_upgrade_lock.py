"""The upgrade lock over every store: one run at a time holds it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from viewfinder.errors import StoreBusyError
from viewfinder.reindexing.upgrade_lock import UpgradeLock, read_holder
from viewfinder.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_lock(store: Store, index: str, run_id: str, now: datetime = NOON) -> UpgradeLock:
    return UpgradeLock(store.control(index), run_id, ttl_s=60, clock=lambda: now, sleep=lambda seconds: None)


def test_one_run_holds_the_lock_until_it_releases_it(store: Store, index: str) -> None:
    first, second = make_lock(store, index, "first"), make_lock(store, index, "second")
    first.acquire()
    with pytest.raises(StoreBusyError, match="locked by run first"):
        second.acquire()
    first.renew()
    first.release()
    second.acquire()
    with pytest.raises(StoreBusyError, match=r"lost the upgrade lock \(the index is locked by run second"):
        first.renew()


def test_exactly_one_of_many_runs_takes_over_an_expired_lock(store: Store, index: str) -> None:
    make_lock(store, index, "killed").acquire()
    later = NOON + timedelta(seconds=61)

    def acquires(number: int) -> bool:
        try:
            make_lock(store, index, f"run-{number}", later).acquire()
        except StoreBusyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(acquires, range(8))) == 1
    assert (holder := read_holder(store.control(index))) is not None
    assert holder.run_id.startswith("run-")
