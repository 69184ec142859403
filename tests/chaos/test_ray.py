"""The job on Ray amid faults: processes that die in the middle, a storm. The index is that of a run in peace."""

import contextlib
import ctypes
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.conftest import children, until
from tests.chaos.table import chance
from tests.chaos.trial import NAMES, Trial, strikes
from viewfinder.sources.uris import point_id
from viewfinder.testing.qdrant import Fault
from viewfinder.testing.s3_faults import FOREVER, S3Fault

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("ray_session")]

UPSERT = r"^PUT /collections/images__(?!control).*/points$"
DECODER = "viewfinder.images.decoder import run_child"
# Pictures that S3 gives out before the first of them is written.
AHEAD = 4
# Less than the minute after which a client gives a read up.
HOLD_S = 45.0
# How long a decoder is stopped at most: far less than the 20 s after which its parent ends it as one that hangs.
STOPPED_S = 5.0
# The system call, which Python has no function for; the number is that of Linux on every processor.
PIDFD_GETFD = 438


def descendants(of: int) -> Iterator[int]:
    """Processes below this one: those of other programs on the machine are not ours to end."""
    with contextlib.suppress(OSError):  # gone by now
        for each in Path(f"/proc/{of}/task").glob("*/children"):
            for child in each.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # gone by now
        return ""


def busy(*words: str) -> list[int]:
    """Our processes whose command line has all of these words; Ray names its workers after what they do."""
    return [each for each in descendants(os.getpid()) if all(word in command(each) for word in words)]


class Flow:
    """How far a job is. S3 gives a picture out once all before it are written but for the last few, fewer than `AHEAD`.

    So there is work on its way at any moment, and never all of it; but it keeps no client for longer than `HOLD_S`.
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
        # A write that takes a while can be killed in its middle.
        trial.qdrant.faults.extend(Fault(delay_s=1.0, on=UPSERT) for _ in range(40))

    @property
    def written(self) -> set[str]:
        """The points that Qdrant has been sent."""
        upserts = [each for each in self._requests[self._before :] if re.search(UPSERT, f"{each.method} {each.path}")]
        return {point for each in upserts for point in each.body["batch"]["ids"]}

    @property
    def on_its_way(self) -> int:
        """How many pictures S3 has given out that are not written."""
        return len(self.given) - len(self.written)

    def _hold(self, number: int) -> None:
        earlier, deadline = self._points[: max(0, number - AHEAD + 1)], time.monotonic() + HOLD_S
        while not self.written.issuperset(earlier) and time.monotonic() < deadline and not self.over.wait(0.1):
            pass
        self.given.add(number)


class Killer(threading.Thread):
    """Kills processes that `victims` names, each once so many more points are written as `after` says.

    Each is stopped first, and dies if `in_hand` then finds pictures in its hands. Otherwise it goes on, and another
    moment is tried.
    """

    def __init__(
        self,
        victims: Callable[[], list[int]],
        in_hand: Callable[[int], int],
        flow: Flow,
        after: Sequence[int],
        chance: random.Random,
    ) -> None:
        super().__init__(daemon=True)
        self._victims, self._in_hand, self._flow = victims, in_hand, flow
        self._after, self._chance = after, chance
        # How many pictures each of the killed had in its hands.
        self.killed: dict[int, int] = {}
        self.decoders: set[int] = set()

    def run(self) -> None:
        before, after = 0, list(self._after)
        while not self._flow.over.wait(0.05):
            # One that outlives its worker is a child of ours no longer, and must be known from before.
            self.decoders |= set(busy(DECODER))
            if after and len(self._flow.written) - before >= after[0] and (victim := self._stopped()):
                if self._killed(victim):
                    before = len(self._flow.written)
                    del after[0]
                else:
                    self._flow.over.wait(1)  # or one that is only starting would never get on

    def _stopped(self) -> int | None:
        """A victim that gets on no further."""
        found = sorted(set(self._victims()) - self.killed.keys())
        if not found:
            return None
        victim = self._chance.choice(found)
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(victim, signal.SIGSTOP)
            if victim in self._victims():
                return victim
            os.kill(victim, signal.SIGCONT)  # it does something else by now
        return None

    def _killed(self, victim: int) -> bool:
        """Whether there was something to lose."""
        lost = 0
        try:
            lost = self._in_hand(victim)
        finally:
            with contextlib.suppress(ProcessLookupError):  # Ray has ended it
                os.kill(victim, signal.SIGKILL if lost else signal.SIGCONT)
                if lost:
                    self.killed[victim] = lost
        return victim in self.killed


def unwritten(flow: Flow) -> int:
    """How many pictures are on their way in a job that stands still: nothing is written for two seconds of ten."""
    for _ in range(5):
        written = flow.written
        if flow.over.wait(2):
            return 0
        if flow.written == written:
            return flow.on_its_way
    return 0


def undecoded(decoder: int, files: set[bytes], flow: Flow) -> int:
    """How many of these files a stopped decoder has been sent and has not read; waits a while for one."""
    deadline = time.monotonic() + STOPPED_S
    while time.monotonic() < deadline and not flow.over.wait(0.1):
        # A frame is the file's length in eight bytes, and the file.
        if count := sum(frame[8:] in files for frame in unread(decoder)):
            return count
    return 0


def unread(process: int) -> list[bytes]:
    """What waits in each socket of a process. It takes the right to trace it: in a container, CAP_SYS_PTRACE."""
    libc, waiting = ctypes.CDLL(None, use_errno=True), []
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # gone by now
        handle = os.pidfd_open(process)
        try:
            for each in Path(f"/proc/{process}/fd").iterdir():
                if each.readlink().name.startswith("socket:"):
                    copy = libc.syscall(PIDFD_GETFD, handle, int(each.name), 0)
                    if copy < 0:
                        raise OSError(ctypes.get_errno(), "may not look into the sockets of another process")
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
def test_a_process_that_is_killed_costs_its_work_and_no_object(
    trial: Trial, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments, of_decoder = chance(fault), VICTIMS[fault] == (DECODER,)
    # A picture that two decoders in a row die of is a failure: a second kill might meet the same one.
    after = [moments.randint(1, 3) for _ in range(1 if of_decoder else 2)]
    # The decoder of this process, which decodes for the run in peace.
    ours = {each for each in busy(DECODER) if str(each) in children()}
    if of_decoder:
        try:
            assert [unread(each) for each in ours]
        except OSError as error:
            pytest.skip(f"{error}, and so not know whether a decoder has a file in its hands")
    flow = Flow(trial)
    files = {path.read_bytes() for path in trial.world.bucket.iterdir()}
    killer = Killer(
        lambda: [each for each in busy(*VICTIMS[fault]) if each not in ours],
        lambda victim: undecoded(victim, files, flow) if of_decoder else unwritten(flow),
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
    assert len(killer.killed) == len(after), "the job was over before all could be killed"
    assert all(killer.killed.values()), "there was nothing to lose"
    assert trial.world.counts == trial.counts[0]
    trial.same_as_calm(0)
    assert killer.decoders - ours
    until(lambda: not orphans(killer.decoders - ours), "no decoder outlives its worker")


@pytest.mark.chaos("Ray", "a storm of S3 and Qdrant faults over the job")
def test_a_storm_over_the_job_changes_nothing(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = chance("a storm over the job")
    picture, listing, caption = r"^GET /[^?]+/\d\d\.jpg", r"^GET /[^?]*\?.*list-type", r"^GET /[^?]+captions\.json"
    refused, cut = {"status": 503, "code": "SlowDown"}, {"cut_at": moment.randrange(1, 500)}
    s3 = [
        S3Fault(picture, 4, moment.randrange(16), **refused),
        S3Fault(picture, 3, moment.randrange(16), **cut),
        S3Fault(picture, 2, moment.randrange(16), cut_at=-1),
        S3Fault(picture, 2, moment.randrange(16), length_off=moment.randrange(1, 1000)),
        S3Fault(listing, 1, 1, **refused),  # the first only looks whether there is anything
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
    assert trial.cost.injected == sum(each.times for each in s3) + strikes(store), "a fault was not met"
    assert trial.world.counts == trial.counts[0]
    trial.same_as_calm(0)


def run(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> int:
    """The job on Ray, through the proxy, in small batches; its exit status."""
    for name in ("FETCH_BATCH_SIZE", "ENCODE_BATCH_SIZE", "WRITE_BATCH_SIZE"):
        monkeypatch.setenv(f"VIEWFINDER_{name}", "2")
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", trial.proxy.url)
    return trial.world.run("--captions", f"{trial.world.source}/captions.json", "--max-failure-ratio", "0.5")


def orphans(decoders: set[int]) -> set[int]:
    """Those that run on while no worker of ours is above them."""
    cared_for = {each for worker in busy("ray::") for each in descendants(worker)}
    return {each for each in decoders - cared_for if DECODER in command(each)}
