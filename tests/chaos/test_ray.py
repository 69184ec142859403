"""The job on Ray with faults and killed processes: the index is the same as without."""

import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.conftest import until
from tests.chaos.table import chance
from tests.chaos.trial import NAMES, Trial, strikes
from tests.processes import children, command, descendants
from viewfinder.sources.uris import point_id
from viewfinder.testing.qdrant import Fault
from viewfinder.testing.s3_faults import FOREVER, S3Fault

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("ray_session")]

UPSERT = r"^PUT /collections/images__(?!control).*/points$"
DECODER = "viewfinder.images.decoder import run_child"
# Maximum number of images that S3 serves ahead of the oldest unwritten one.
MAX_IN_FLIGHT = 4
# Less than the minute after which a client abandons a read.
HOLD_S = 45.0
# Maximum time that a decoder is stopped: far less than the 20 s after which its parent ends it as hung.
STOPPED_S = 5.0
# A system call without a Python function; the number is the same on all Linux architectures.
PIDFD_GETFD = 438


def busy(*words: str) -> list[int]:
    """Our processes whose command line contains all of these words; Ray names a worker after its task."""
    return [each for each in descendants(os.getpid()) if all(word in command(each) for word in words)]


class Flow:
    """Holds back S3's answers so that at most `MAX_IN_FLIGHT` images are read but not yet written.

    So at any moment some work is in flight, but never all of it. No request is held for longer than `HOLD_S`.
    """

    def __init__(self, trial: Trial) -> None:
        self._requests = trial.qdrant.requests
        self._before = len(self._requests)
        self._points = [point_id(f"{trial.world.source}/{name}") for name in NAMES]
        self.given: set[int] = set()
        self.over = threading.Event()
        trial.proxy.inject(
            *(
                S3Fault(rf"^GET /[^?]+/{name}", FOREVER, before=partial(self._hold, number))
                for number, name in enumerate(NAMES)
            )
        )
        # Slow writes, so that a writer can be killed during one.
        trial.qdrant.faults.extend(Fault(delay_s=1.0, on=UPSERT) for _ in range(40))

    @property
    def written(self) -> set[str]:
        """The points sent to Qdrant."""
        upserts = [each for each in self._requests[self._before :] if re.search(UPSERT, f"{each.method} {each.path}")]
        return {point for each in upserts for point in each.body["batch"]["ids"]}

    @property
    def in_flight(self) -> int:
        """Number of images served by S3 and not yet written."""
        return len(self.given) - len(self.written)

    def _hold(self, number: int) -> None:
        earlier, deadline = self._points[: max(0, number - MAX_IN_FLIGHT + 1)], time.monotonic() + HOLD_S
        while not self.written.issuperset(earlier) and time.monotonic() < deadline and not self.over.wait(0.1):
            pass
        self.given.add(number)


class Killer(threading.Thread):
    """Kills one of the `victims` each time that the next number of points in `after` has been written.

    A victim is stopped first, and killed only if `lost_if_killed` says that it holds images. Otherwise it continues,
    and another moment is tried.
    """

    def __init__(
        self,
        victims: Callable[[], list[int]],
        lost_if_killed: Callable[[int], int],
        flow: Flow,
        after: Sequence[int],
        chance: random.Random,
    ) -> None:
        super().__init__(daemon=True)
        self._victims, self._lost_if_killed, self._flow = victims, lost_if_killed, flow
        self._after, self._chance = after, chance
        # Number of images that each killed process held.
        self.killed: dict[int, int] = {}
        self.decoders: set[int] = set()

    def run(self) -> None:
        before, after = 0, list(self._after)
        while not self._flow.over.wait(0.05):
            # A decoder that outlives its worker is no longer our descendant, so remember it now.
            self.decoders |= set(busy(DECODER))
            if after and len(self._flow.written) - before >= after[0] and (victim := self._stopped()):
                if self._killed(victim):
                    before = len(self._flow.written)
                    del after[0]
                else:
                    self._flow.over.wait(1)  # or a starting process would make no progress

    def _stopped(self) -> int | None:
        """Stop a victim and return it, None if there is none."""
        found = sorted(set(self._victims()) - self.killed.keys())
        if not found:
            return None
        victim = self._chance.choice(found)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(victim, signal.SIGSTOP)
            if victim in self._victims():
                return victim
            os.kill(victim, signal.SIGCONT)  # it now runs another task
        return None

    def _killed(self, victim: int) -> bool:
        """Kill the stopped victim if it holds images, else continue it; return True if killed."""
        lost = 0
        try:
            lost = self._lost_if_killed(victim)
        finally:
            with contextlib.suppress(ProcessLookupError):  # Ray has already ended it
                os.kill(victim, signal.SIGKILL if lost else signal.SIGCONT)
                if lost:
                    self.killed[victim] = lost
        return victim in self.killed


def unwritten(flow: Flow) -> int:
    """Number of images in flight in a job that is blocked: nothing is written for 2 s. Tries for 10 s."""
    for _ in range(5):
        written = flow.written
        if flow.over.wait(2):
            return 0
        if flow.written == written:
            return flow.in_flight
    return 0


def undecoded(decoder: int, files: set[bytes], flow: Flow) -> int:
    """Number of these files sent to a stopped decoder and not yet read; waits for one for a while."""
    deadline = time.monotonic() + STOPPED_S
    while time.monotonic() < deadline and not flow.over.wait(0.1):
        # A frame is the length of the file in eight bytes, and the file.
        if count := sum(frame[8:] in files for frame in unread(decoder)):
            return count
    return 0


def unread(process: int) -> list[bytes]:
    """Unread bytes in each socket of a process. Needs permission to trace it: in a container, CAP_SYS_PTRACE."""
    libc, waiting = ctypes.CDLL(None, use_errno=True), []
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended
        handle = os.pidfd_open(process)
        try:
            for each in Path(f"/proc/{process}/fd").iterdir():
                if each.readlink().name.startswith("socket:"):
                    copy = libc.syscall(PIDFD_GETFD, handle, int(each.name), 0)
                    if copy < 0:
                        raise OSError(ctypes.get_errno(), "no permission to read the sockets of another process")
                    with socket.socket(fileno=copy) as its, contextlib.suppress(BlockingIOError):
                        waiting.append(its.recv(2**20, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        finally:
            os.close(handle)
    return waiting


VICTIMS = {
    "a fetch worker is killed": ("ray::", "FetchAndDecode"),
    "the encode actor is killed": ("ray::", "Encode"),
    "a write worker is killed": ("ray::", "Write"),
    "a decoder is killed, as for want of memory": (DECODER,),
}


@pytest.mark.chaos("Ray")
@pytest.mark.parametrize("fault", VICTIMS)
def test_a_killed_process_loses_no_object(trial: Trial, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, kills_decoder = chance(fault), VICTIMS[fault] == (DECODER,)
    # An image that kills two decoders in a row is a failure, and a second kill might hit the same image.
    after = [moments.randint(1, 3) for _ in range(1 if kills_decoder else 2)]
    # The decoder of this process, used by the run without faults.
    ours = {each for each in busy(DECODER) if each in children()}
    if kills_decoder:
        try:
            assert [unread(each) for each in ours]
        except OSError as error:
            pytest.skip(f"{error}, so it is unknown if a decoder holds a file")
    flow = Flow(trial)
    files = {path.read_bytes() for path in trial.world.bucket.iterdir()}
    killer = Killer(
        lambda: [each for each in busy(*VICTIMS[fault]) if each not in ours],
        lambda victim: undecoded(victim, files, flow) if kills_decoder else unwritten(flow),
        flow,
        after,
        moments,
    )
    killer.start()
    began = time.perf_counter()
    try:
        status = run(trial, monkeypatch)
    finally:
        flow.over.set()
        killer.join()
        trial.proxy.inject()
        trial.qdrant.faults.clear()
    trial.cost.seconds, trial.cost.injected = time.perf_counter() - began, len(killer.killed)
    assert status == 0
    assert len(killer.killed) == len(after), "the job ended before all were killed"
    assert all(killer.killed.values()), "a killed process held no image"
    assert trial.world.counts == trial.counts[0]
    trial.assert_same_as_without_faults(0)
    assert killer.decoders - ours
    until(lambda: not orphans(killer.decoders - ours), "a decoder outlived its worker")


@pytest.mark.full
@pytest.mark.chaos("Ray", "a storm of S3 and Qdrant faults over the job")
def test_many_faults_at_once_do_not_change_the_index_of_a_job(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = chance("a storm over the job")
    images, listing, caption = r"^GET /[^?]+/\d\d\.jpg", r"^GET /[^?]*\?.*list-type", r"^GET /[^?]+captions\.json"
    refused, cut = {"status": 503, "code": "SlowDown"}, {"cut_at": moment.randrange(1, 500)}
    s3 = [
        S3Fault(images, 4, moment.randrange(16), **refused),
        S3Fault(images, 3, moment.randrange(16), **cut),
        S3Fault(images, 2, moment.randrange(16), cut_at=-1),
        S3Fault(images, 2, moment.randrange(16), length_off=moment.randrange(1, 1000)),
        S3Fault(listing, 1, 1, **refused),  # the first request only checks that the source is not empty
        S3Fault(caption, 1, **refused),
    ]
    store = [
        *[Fault(status=503, on=UPSERT)] * 3,
        Fault(status=429, retry_after="1", on=UPSERT),
        *[Fault(drop="before", on=UPSERT)] * 2,
        *[Fault(drop="after", on=UPSERT)] * 2,
        *[Fault(late=2, on=UPSERT)] * 2,
        *[Fault(on=UPSERT)] * 4,
    ]
    monkeypatch.setenv("VIEWFINDER_QDRANT_RETRY_S", "60")
    trial.proxy.inject(*s3)
    trial.qdrant.faults.extend(moment.sample(store, k=len(store)))
    began = time.perf_counter()
    assert run(trial, monkeypatch) == 0
    trial.cost.seconds = time.perf_counter() - began
    left = strikes(trial.qdrant.faults)
    trial.qdrant.faults.clear()
    trial.cost.injected = trial.proxy.injected + strikes(store) - left
    assert trial.cost.injected == sum(each.times for each in s3) + strikes(store), "a fault was not hit"
    assert trial.world.counts == trial.counts[0]
    trial.assert_same_as_without_faults(0)


def run(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the job on Ray through the proxy in small batches; return its exit status."""
    for name in ("FETCH_BATCH_SIZE", "ENCODE_BATCH_SIZE", "WRITE_BATCH_SIZE"):
        monkeypatch.setenv(f"VIEWFINDER_{name}", "2")
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", trial.proxy.url)
    return trial.world.run("--captions", f"{trial.world.source}/captions.json", "--max-failure-ratio", "0.5")


def orphans(decoders: set[int]) -> set[int]:
    """Decoders that still run but are not descendants of a worker."""
    supervised = {each for worker in busy("ray::") for each in descendants(worker)}
    return {each for each in decoders - supervised if DECODER in command(each)}
