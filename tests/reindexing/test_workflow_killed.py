"""A re-index that is killed in any phase, runs beside another one, or loses the connection to its store."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.fixtures.qdrant import validating
from tests.fixtures.reindexing import NAMES, Index
from tests.reindexing import killable
from viewfinder.errors import StoreBusyError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.upgrade_lock import read_holder
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.qdrant import QdrantDouble, Request

pytestmark = pytest.mark.slow

# A new process loads a model, possibly on a busy machine.
TIMEOUT_S = 240
UNREACHABLE_S = 4


class Interrupted(QdrantDouble):
    """A double that blocks one request, before or after it takes effect, and can be unreachable altogether."""

    def __init__(self, **options: Any) -> None:
        self.reached, self.go_on, self.unreachable = threading.Event(), threading.Event(), threading.Event()
        self._ways: list[str] = []
        self._after = False
        super().__init__(**options)

    def stop_at(self, *ways: str, after: bool = False) -> None:
        """Block a request until `go_on`, then drop its connection.

        It is the first that matches the last of `ways` after there was one for each of the others, in order.
        """
        self._ways, self._after = list(ways), after

    def answer(self, request: Request, key: str | None) -> Any:
        if self.unreachable.is_set():
            raise ConnectionError("unreachable")
        if self._meets(request):
            if self._after:
                super().answer(request, key)
            self.reached.set()
            self.go_on.wait(TIMEOUT_S)
            raise ConnectionError("the sender was killed")
        return super().answer(request, key)

    def _meets(self, request: Request) -> bool:
        if not self._ways or not re.search(self._ways[0], f"{request.method} {request.path}"):
            return False
        del self._ways[0]
        return not self._ways

    def close(self) -> None:
        self.go_on.set()
        super().close()


@pytest.fixture
def qdrant() -> Iterator[Interrupted]:
    with validating(Interrupted) as double:
        yield double


CREATED, WRITTEN, COMPARED = r"PUT .*__0002$", r"PUT .*__0002/points$", r"POST .*__0002/points$"
READY, SEARCHED, ALIASED = (
    r"GET .*__0002/optimizations$",
    r"POST .*__0002/points/query/batch$",
    r"POST /collections/aliases$",
)
RETIRED, DROPPED = r"PATCH .*__0001$", r"DELETE .*__0001$"

# Where a run is killed: at the last of these requests, before or after it takes effect. And: has the alias moved then?
PHASES: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "preflight, with the lock": ((CREATED,), False, False),
    "build, before the payload indexes": ((CREATED,), True, False),
    "build, between two writes": ((WRITTEN, WRITTEN), False, False),
    "catching up": ((WRITTEN, COMPARED), False, False),
    "waiting until it is ready": ((READY,), False, False),
    "verification": ((SEARCHED,), False, False),
    "before the alias moves": ((ALIASED,), False, False),
    "after the alias has moved": ((ALIASED,), True, True),
    "before the old collection is retired": ((ALIASED, RETIRED), False, True),
    "catching up after the promotion": ((ALIASED, COMPARED), False, True),
    "before the retired collection is dropped": ((DROPPED,), False, True),
    "after the retired collection is dropped": ((DROPPED,), True, True),
}

ALWAYS_TESTED = ("build, between two writes", "after the alias has moved")  # the others: make test-all


@pytest.mark.chaos("Re-index", "the job is killed")
@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize(
    ("ways", "after", "switched"),
    [
        pytest.param(*phase, id=name, marks=() if name in ALWAYS_TESTED else pytest.mark.full)
        for name, phase in PHASES.items()
    ],
)
def test_a_run_killed_in_any_phase_leaves_a_working_index_and_a_rerun_completes_it(
    index: Index,
    qdrant: Interrupted,
    monkeypatch: pytest.MonkeyPatch,
    ways: tuple[str, ...],
    after: bool,
    switched: bool,
) -> None:
    dropping = DROPPED in ways
    if dropping:
        monkeypatch.setenv("VIEWFINDER_GRACE_S", "0")
        monkeypatch.setenv("VIEWFINDER_REFRESH_S", "0.001")
    qdrant.stop_at(*ways, after=after)
    directory = index.world.directory / "killed"
    job = killable.start(index.world.access, index.world.store.address, directory, ["--keep", "0"] if dropping else [])
    while not qdrant.reached.wait(0.1):
        assert job.is_alive(), (directory / "log.txt").read_text()
    assert_index_works(index, switched=switched)
    os.kill(job.pid or 0, signal.SIGKILL)
    job.join()
    assert job.exitcode == -signal.SIGKILL
    job.close()
    qdrant.go_on.set()
    assert_index_works(index, switched=switched)

    assert index.reindex() == 0, "the lock of a dead process is taken over at once"
    assert_index_works(index, switched=True)
    retired = {} if dropping and after else {"first 1": "retired"}
    assert index.states == retired | {"other 2": "live"}, "the rerun continued with the collection of the killed run"
    holder = read_holder(index.store.control("images"))
    assert holder is None or holder.expired(datetime.now(UTC)), "a run that only updates takes no lock"


def assert_index_works(index: Index, *, switched: bool) -> None:
    """Assert that the live collection has the expected model, is complete, and can be searched."""
    assert index.live.metadata.fingerprint == locate(index.models[switched]).fingerprint
    assert set(index.world.points) == set(NAMES)
    (vector,) = index.store.points.sample(index.live, 1)
    assert len(index.store.search.nearest(index.live, np.asarray(vector), limit=5)) == 5


@pytest.mark.chaos("Re-index", "the store is unreachable for a while")
def test_a_store_that_is_unreachable_for_a_while_only_delays_the_run(
    index: Index, qdrant: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable between two writes of the build, with the default time for retries."""
    monkeypatch.setenv("VIEWFINDER_QDRANT_RETRY_S", "120")
    address = replace(index.world.store.address, retry_s=120)
    qdrant.stop_at(WRITTEN, WRITTEN)
    directory = index.world.directory / "patient"
    job = killable.start(index.world.access, address, directory)
    while not qdrant.reached.wait(0.1):
        assert job.is_alive(), (directory / "log.txt").read_text()
    qdrant.unreachable.set()
    qdrant.go_on.set()
    job.join(UNREACHABLE_S)
    assert job.is_alive(), "it keeps trying"
    qdrant.unreachable.clear()
    job.join(TIMEOUT_S)
    assert job.exitcode == 0, (directory / "log.txt").read_text()
    job.close()
    assert_index_works(index, switched=True)


def test_the_next_run_corrects_states_that_a_killed_run_left(index: Index) -> None:
    index.reindex()
    first, other = index.store.collections.all("images")
    index.store.collections.update_metadata(first.name, state="live", retired_at="")
    index.store.collections.update_metadata(other.name, state="ready")
    assert index.reindex() == 0
    assert index.states == {"first 1": "retired", "other 2": "live"}


def test_only_one_of_two_simultaneous_runs_builds(index: Index) -> None:
    refused: list[str] = []

    def another(number: int) -> None:
        if number == 1:
            with pytest.raises(StoreBusyError) as caught:
                index.reindex()
            refused.append(str(caught.value))

    assert index.reindex(meanwhile=another) == 0
    assert "The index is locked by run" in refused[0]
    assert len(index.store.collections.all("images")) == 2


def test_a_run_that_lost_its_lock_promotes_nothing(index: Index) -> None:
    before = index.live

    def take_over(number: int) -> None:
        if number == 2:
            control = index.store.control("images")
            holder = read_holder(control)
            assert holder is not None
            in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            control.write(
                "upgrade_lock", {"collections": vars(replace(holder, token="other", machine="", expires_at=in_an_hour))}
            )

    with pytest.raises(StoreBusyError, match="lost the upgrade lock"):
        index.reindex(meanwhile=take_over)
    assert index.live == before
    holder = read_holder(index.store.control("images"))
    assert holder is not None
    assert holder.token == "other"


def test_unfinished_collections_of_other_models_are_dropped(index: Index, tiny_model: str) -> None:
    unfinished = index.store.collections.create("images", ModelIdentity("left", "beef", 4))
    assert index.reindex() == 0
    assert unfinished.name not in [each.name for each in index.store.collections.all("images")]
