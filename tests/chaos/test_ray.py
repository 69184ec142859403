"""Processes of a job that die in the middle: Ray runs their work again, and the index is that of a run in peace."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import children, until
from tests.chaos.trial import Trial
from viewfinder.testing.qdrant import Fault
from viewfinder.testing.s3_faults import FOREVER, S3Fault

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.usefixtures("ray_session")]

UPSERT = r"^PUT .*/points$"
PICTURE = r"^GET /[^?]+\.jpg"
DECODER = "viewfinder.decoder import run_child"


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


class Killer(threading.Thread):
    """Kills, once objects are being read, a process that `victims` names, and later others, so many in all."""

    def __init__(self, victims: Callable[[], list[int]], ready: Callable[[], bool], times: int) -> None:
        super().__init__(daemon=True)
        self._victims, self._ready, self._times = victims, ready, times
        self.killed: set[int] = set()
        self.decoders: set[int] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            # One that outlives its worker is a child of ours no longer, and must be known from before.
            self.decoders |= set(busy(DECODER))
            if len(self.killed) < self._times and self._ready() and (found := set(self._victims()) - self.killed):
                victim = min(found)
                os.kill(victim, signal.SIGKILL)
                self.killed.add(victim)


VICTIMS = {
    "a fetch worker is killed": (("ray::", "FetchAndDecode"), 2),
    "the encode actor is killed": (("ray::", "Encode"), 2),
    "a write worker is killed": (("ray::", "Write"), 2),
    # A picture that two decoders in a row die of is a failure: a second kill might meet the same one.
    "a decoder is killed, as for want of memory": ((DECODER,), 1),
}


@pytest.mark.chaos("Ray")
@pytest.mark.parametrize(("words", "times"), VICTIMS.values(), ids=VICTIMS)
def test_a_process_that_is_killed_costs_its_work_and_no_object(
    trial: Trial, words: tuple[str, ...], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FETCH_BATCH_SIZE", "ENCODE_BATCH_SIZE", "WRITE_BATCH_SIZE"):
        monkeypatch.setenv(f"VIEWFINDER_{name}", "2")
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", trial.proxy.url)
    # Slow reads and writes make a job with a middle.
    trial.proxy.inject(S3Fault(PICTURE, FOREVER, before=lambda: time.sleep(2)))
    trial.qdrant.faults.extend(Fault(delay_s=1.0, on=UPSERT) for _ in range(40))
    ours = {
        each for each in busy(DECODER) if str(each) in children()
    }  # the decoder of this process, which decodes for the run in peace
    killer = Killer(
        lambda: [each for each in busy(*words) if each not in ours],
        lambda: trial.proxy.injected > 2,
        times,
    )
    killer.start()
    began = time.perf_counter()
    captions = f"{trial.world.source}/captions.json"
    try:
        status = trial.world.run("--captions", captions, "--max-failure-ratio", "0.5")
    finally:
        killer.over.set()
        killer.join()
        trial.proxy.inject()
        trial.qdrant.faults.clear()
    trial.cost.seconds, trial.cost.injected = time.perf_counter() - began, len(killer.killed)
    assert status == 0
    assert killer.killed, "the job was over before anything could be killed"
    assert trial.world.counts == trial.counts[0]
    trial.same_as_calm(0)
    assert killer.decoders - ours
    until(lambda: not orphans(killer.decoders - ours), "no decoder outlives its worker")


def orphans(decoders: set[int]) -> set[int]:
    """Those that run on while no worker of ours is above them."""
    cared_for = {each for worker in busy("ray::") for each in descendants(worker)}
    return {each for each in decoders - cared_for if DECODER in command(each)}
