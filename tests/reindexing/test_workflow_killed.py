"""A re-index that is killed where it hurts, meets another one, or loses its store for a while."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cluster import killable
from tests.fixtures.indexing import NAMES, Index
from viewfinder.errors import StoreBusyError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.upgrade_lock import standing
from viewfinder.testing.qdrant import QdrantDouble, Request

pytestmark = pytest.mark.slow

# A process that is new has a model to load, on a machine that may be busy.
TIMEOUT_S = 240
AWAY_S = 20


class Interrupted(QdrantDouble):
    """Stops at one request, before or after it took effect; and can be away altogether."""

    def __init__(self, **options: Any) -> None:
        self.reached, self.go_on, self.away = threading.Event(), threading.Event(), threading.Event()
        self._ways: list[str] = []
        self._after = False
        super().__init__(**options)

    def stop_at(self, *ways: str, after: bool = False) -> None:
        """Let a request wait for `go_on`, whose sender then hears nothing: the next one that matches the last of `ways`
        once there was one for each before it."""
        self._ways, self._after = list(ways), after

    def answer(self, request: Request, key: str | None) -> Any:
        if self.away.is_set():
            raise ConnectionError("away")
        if self._meets(request):
            if self._after:
                super().answer(request, key)
            self.reached.set()
            self.go_on.wait(TIMEOUT_S)
            raise ConnectionError("its sender has been killed")
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
    openapi = os.environ.get("QDRANT_OPENAPI")
    with Interrupted(openapi=Path(openapi) if openapi else None) as double:
        yield double
        assert not double.invalid, "requests that Qdrant's specification does not allow"


MADE, WRITTEN, COMPARED = r"PUT .*__0002$", r"PUT .*__0002/points$", r"POST .*__0002/points$"
READY, ASKED, MOVED = (
    r"GET .*__0002/optimizations$",
    r"POST .*__0002/points/query/batch$",
    r"POST /collections/aliases$",
)
RETIRED, DROPPED = r"PATCH .*__0001$", r"DELETE .*__0001$"

# Where a job is killed: at the last of these requests, before or after it takes effect; has the alias moved by then?
PHASES: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "preflight, with the lease": ((MADE,), False, False),
    "build, without indexes of fields": ((MADE,), True, False),
    "build, among the pictures": ((WRITTEN, WRITTEN), False, False),
    "catching up": ((WRITTEN, COMPARED), False, False),
    "waiting until it is ready": ((READY,), False, False),
    "verification": ((ASKED,), False, False),
    "before the alias moves": ((MOVED,), False, False),
    "after the alias has moved": ((MOVED,), True, True),
    "before the former one is retired": ((MOVED, RETIRED), False, True),
    "catching up after the switch": ((MOVED, COMPARED), False, True),
    "before the former one is dropped": ((DROPPED,), False, True),
    "after the former one is dropped": ((DROPPED,), True, True),
}


@pytest.mark.chaos("Re-index", "the job is killed")
@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize(("ways", "after", "switched"), PHASES.values(), ids=PHASES)
def test_a_job_killed_at_any_phase_leaves_an_index_that_answers_and_a_rerun_completes_it(
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
    job = killable.start(index.world.reach, directory, ["--keep", "0"] if dropping else [])
    while not qdrant.reached.wait(0.1):
        assert job.is_alive(), (directory / "log.txt").read_text()
    assert_answers(index, switched=switched)
    os.kill(job.pid or 0, signal.SIGKILL)
    job.join()
    assert job.exitcode == -signal.SIGKILL
    job.close()
    qdrant.go_on.set()
    assert_answers(index, switched=switched)

    assert index.reindex() == 0, "the lease of a process that is gone holds nobody up"
    assert_answers(index, switched=True)
    former = {} if dropping and after else {"first 1": "retired"}
    assert index.states == former | {"other 2": "live"}, "what the killed job had made was gone on with"
    left = standing(index.store.control("images"))
    assert left is None or left.over(datetime.now(UTC)), "a run that only brings up to date takes no lease"


def assert_answers(index: Index, *, switched: bool) -> None:
    """The live collection is of the model that it should be of, whole, and can be searched."""
    assert index.live.metadata.fingerprint == locate(index.models[switched]).fingerprint
    assert set(index.world.points) == set(NAMES)
    (vector,) = index.store.points.sample(index.live, 1)
    assert len(index.store.search.nearest(index.live, np.asarray(vector), limit=5)) == 5


@pytest.mark.chaos("Re-index", "the store is away for a while")
def test_a_store_that_is_away_for_a_while_delays_the_job_and_no_more(
    index: Index, qdrant: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away among the pictures of the build; the job has the time that jobs have by default."""
    monkeypatch.setenv("VIEWFINDER_QDRANT_RETRY_S", "120")
    reach = replace(index.world.reach, address=replace(index.world.reach.address, retry_s=120))
    qdrant.stop_at(WRITTEN, WRITTEN)
    directory = index.world.directory / "patient"
    job = killable.start(reach, directory)
    while not qdrant.reached.wait(0.1):
        assert job.is_alive(), (directory / "log.txt").read_text()
    qdrant.away.set()
    qdrant.go_on.set()
    job.join(AWAY_S)
    assert job.is_alive(), "it waits"
    qdrant.away.clear()
    job.join(TIMEOUT_S)
    assert job.exitcode == 0, (directory / "log.txt").read_text()
    job.close()
    assert_answers(index, switched=True)


def test_states_that_a_killed_job_left_behind_follow_the_alias_at_the_next_run(index: Index) -> None:
    index.reindex()
    first, other = index.store.collections.all("images")
    index.store.collections.update_metadata(first.name, state="live", retired_at="")
    index.store.collections.update_metadata(other.name, state="ready")
    assert index.reindex() == 0
    assert index.states == {"first 1": "retired", "other 2": "live"}


def test_two_at_once_cannot_both_build(index: Index) -> None:
    refused: list[str] = []

    def another(number: int) -> None:
        if number == 1:
            with pytest.raises(StoreBusyError) as caught:
                index.reindex()
            refused.append(str(caught.value))

    assert index.reindex(meanwhile=another) == 0
    assert "Another job is building" in refused[0]
    assert len(index.store.collections.all("images")) == 2


def test_a_job_that_lost_its_lease_switches_nothing(index: Index) -> None:
    before = index.live

    def rob(number: int) -> None:
        if number == 2:
            control = index.store.control("images")
            note = standing(control)
            assert note is not None
            theirs = replace(
                note, owner="thief", machine="", until=(datetime.now(UTC) + timedelta(hours=1)).isoformat()
            )
            control.write("lease", {"build": vars(theirs)})

    with pytest.raises(StoreBusyError, match="lost its build lease"):
        index.reindex(meanwhile=rob)
    assert index.live == before
    held = standing(index.store.control("images"))
    assert held is not None
    assert held.owner == "thief"


def test_what_builds_of_other_models_left_is_dropped(index: Index, tiny_model: str) -> None:
    left = index.store.collections.create("images", "left", {}, "beef", 4)
    assert index.reindex() == 0
    assert left.name not in [each.name for each in index.store.collections.all("images")]
