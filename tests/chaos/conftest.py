"""Fixtures for fault tests: an index built without faults, and the same index built with faults."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.table import COST, Cost
from tests.chaos.trial import Trial
from tests.fixtures.indexing import World, executor, qdrant, world
from tests.processes import children
from viewfinder.backoff import Backoff
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble
from viewfinder.testing.s3 import S3Endpoint
from viewfinder.testing.s3_faults import S3FaultProxy

__all__ = ["executor", "qdrant", "world"]

# Short, so that the suite does not spend its time in timeouts.
READ_TIMEOUT_S = 1.0
STORE_TIMEOUT_S = 2.0
LONGEST_PAUSE_S = 1.0
# A test waits so long for an event, because the machine may be busy.
PATIENCE_S = 240.0


@pytest.fixture
def cost(request: pytest.FixtureRequest) -> Cost:
    """The row of this test in the fault table; a parametrized case is named by its id."""
    case = request.node.callspec.id if hasattr(request.node, "callspec") else ""
    return request.node.stash.setdefault(COST, Cost(fault=case))


@pytest.fixture
def proxy(s3: S3Endpoint) -> Iterator[S3FaultProxy]:
    with S3FaultProxy(s3.url) as made:
        yield made


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of this process's temporary files, for one test."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@contextlib.contextmanager
def nothing_left_over(temporary: Path) -> Iterator[None]:
    """Assert that the block leaves no child processes and no temporary files behind."""
    before = children()
    yield
    assert children() == before, "child processes were left behind"
    assert not list(temporary.iterdir()), "temporary files were left behind"


@pytest.fixture
def trial(
    world: World,
    qdrant: QdrantDouble,
    proxy: S3FaultProxy,
    cost: Cost,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Trial]:
    """A trial whose index without faults is already built. The test must leave nothing behind."""
    # Real pauses grow to 20 s, too long for a test.
    monkeypatch.setattr("viewfinder.store.connection.Backoff", partial(Backoff, maximum_s=LONGEST_PAUSE_S))
    access = ObjectAccess(
        endpoint_url=proxy.url,
        threads=4,
        connect_timeout_s=1,
        read_timeout_s=READ_TIMEOUT_S,
        retry_s=20,
        backoff_s=0.02,
    )
    address = StoreAddress(world.directory, qdrant.url, timeout_s=STORE_TIMEOUT_S, retry_s=60)
    with connect(address) as store:
        world.store = store
        world.access = access
        made = Trial(world, qdrant, proxy, cost)
        made.without_faults()
        with nothing_left_over(temporary):
            yield made


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` is true; fail with the message `what`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
