"""The build lease over every store: what one holds, no other gets."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from viewfinder.errors import StoreBusyError
from viewfinder.reindexing.upgrade_lock import Lease, standing
from viewfinder.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def lease(store: Store, index: str, run_id: str, now: datetime = NOON) -> Lease:
    return Lease(store.control(index), run_id, ttl_s=60, clock=lambda: now)


def test_one_holds_it_until_it_lets_go(store: Store, index: str) -> None:
    first, second = lease(store, index, "first"), lease(store, index, "second")
    first.take()
    with pytest.raises(StoreBusyError, match="run first"):
        second.take()
    first.check()
    first.release()
    second.take()
    with pytest.raises(StoreBusyError, match=r"lost its build lease to .*run second"):
        first.check()


def test_an_expired_one_goes_to_one_of_those_that_come(store: Store, index: str) -> None:
    lease(store, index, "killed").take()
    later = NOON + timedelta(seconds=61)

    def comes(number: int) -> bool:
        try:
            lease(store, index, f"run-{number}", later).take()
        except StoreBusyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(comes, range(8))) == 1
    assert (holding := standing(store.control(index))) is not None
    assert holding.run_id.startswith("run-")
