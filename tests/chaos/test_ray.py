"""Processes of a job that die in the middle: Ray runs their work again, and the index is that of a run in peace."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.trial import Trial
from viewfinder.testing.qdrant import Fault

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.usefixtures("ray_session")]

UPSERT = r"^PUT .*/points$"
WAIT_S = 240


def descendants(of: int) -> Iterator[int]:
    """Processes below this one: those of other programs on the machine are not ours to end."""
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


class Assassin(threading.Thread):
    """Kills, once points are being written, one process that `victims` names; `times` over."""

    def __init__(self, victims: Callable[[], list[int]], ready: Callable[[], bool], times: int) -> None:
        super().__init__(daemon=True)
        self._victims, self._ready, self._times = victims, ready, times
        self.killed: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while len(self.killed) < self._times and time.monotonic() < deadline and not self.over.is_set():
            if self._ready() and (found := self._victims()):
                self.killed.append(command(found[0])[:60])
                os.kill(found[0], signal.SIGKILL)
            time.sleep(0.3)


VICTIMS = {
    "a fetch worker is killed": ("ray::", "FetchAndDecode"),
    "the encode actor is killed": ("ray::", "Encode"),
    "a write worker is killed": ("ray::", "Write"),
    "a decoder is killed, as for want of memory": ("run_child",),
}


@pytest.mark.chaos("Ray")
@pytest.mark.parametrize("words", VICTIMS.values(), ids=VICTIMS)
def test_a_process_that_is_killed_costs_its_work_and_no_object(
    trial: Trial, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FETCH_BATCH_SIZE", "ENCODE_BATCH_SIZE", "WRITE_BATCH_SIZE"):
        monkeypatch.setenv(f"VIEWFINDER_{name}", "2")
    # Slow writes make a job with a middle.
    slow = [Fault(delay_s=0.5, on=UPSERT) for _ in range(40)]
    trial.qdrant.faults.extend(slow)
    ours = set(busy("run_child"))  # the decoder of this process, which decodes for the run in peace
    killer = Assassin(
        lambda: [each for each in busy(*words) if each not in ours],
        lambda: len(trial.qdrant.faults) < len(slow),
        times=2,
    )
    killer.start()
    began = time.perf_counter()
    captions = f"{trial.world.source}/captions.json"
    status = trial.world.run("--captions", captions, "--max-failure-ratio", "0.5")
    trial.cost.seconds, trial.cost.injected = time.perf_counter() - began, len(killer.killed)
    killer.over.set()
    killer.join()
    trial.qdrant.faults.clear()
    assert status == 0
    assert killer.killed, "the job was over before anything could be killed"
    assert trial.world.counts == trial.counts[0]
    trial.same_as_calm(0)
    wait_until(lambda: set(busy("run_child")) <= ours | _of_live_workers(), "no decoder outlives its worker")


def _of_live_workers() -> set[int]:
    return {each for worker in busy("ray::") for each in descendants(worker)}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
