"""The job on Ray amid faults: processes that die in the middle, a storm. The index is that of a run in peace."""

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.conftest import children, until
from tests.chaos.table import chance
from tests.chaos.trial import NAMES, Trial, strikes
from viewfinder.objects import point_id
from viewfinder.testing.qdrant import Fault
from viewfinder.testing.s3_faults import FOREVER, S3Fault

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.usefixtures("ray_session")]

UPSERT = r"^PUT /collections/images__(?!control).*/points$"
DECODER = "viewfinder.decoder import run_child"
# Pictures that S3 gives out before the first of them is written.
AHEAD = 4
# Less than the minute after which a client gives a read up.
HOLD_S = 45.0


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

    Each is stopped first until the job stands still for want of it, and so has work in its hands when it dies.
    """

    def __init__(
        self, victims: Callable[[], list[int]], flow: Flow, after: Sequence[int], chance: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self._victims, self._flow, self._after, self._chance = victims, flow, after, chance
        self.killed: set[int] = set()
        self.lost: list[int] = []
        self.decoders: set[int] = set()

    def run(self) -> None:
        before, after = 0, list(self._after)
        while not self._flow.over.wait(0.05):
            # One that outlives its worker is a child of ours no longer, and must be known from before.
            self.decoders |= set(busy(DECODER))
            if after and len(self._flow.written) - before >= after[0] and (victim := self._stopped()):
                self.lost.append(self._flow.on_its_way if self._stands_still() else 0)
                os.kill(victim, signal.SIGKILL)
                self.killed.add(victim)
                before = len(self._flow.written)
                del after[0]

    def _stopped(self) -> int | None:
        """A victim that gets on no further."""
        found = sorted(set(self._victims()) - self.killed)
        if not found:
            return None
        victim = self._chance.choice(found)
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(victim, signal.SIGSTOP)
            if victim in self._victims():
                return victim
            os.kill(victim, signal.SIGCONT)  # it does something else by now
        return None

    def _stands_still(self) -> bool:
        """Wait, ten seconds at most, until nothing is written for two: a decoder must not take too long by it."""
        for _ in range(5):
            written = self._flow.written
            if self._flow.over.wait(2):
                return False
            if self._flow.written == written:
                return True
        return False


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
    moments = chance(fault)
    # A picture that two decoders in a row die of is a failure: a second kill might meet the same one.
    after = [moments.randint(1, 3) for _ in range(1 if VICTIMS[fault] == (DECODER,) else 2)]
    ours = {
        each for each in busy(DECODER) if str(each) in children()
    }  # the decoder of this process, which decodes for the run in peace
    flow = Flow(trial)
    killer = Killer(lambda: [each for each in busy(*VICTIMS[fault]) if each not in ours], flow, after, moments)
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
    # A decoder may be between two pictures, and the other worker's goes on.
    assert all(killer.lost) or VICTIMS[fault] == (DECODER,), "there was nothing to lose"
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
