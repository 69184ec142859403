"""The index job on two Ray nodes, one of which is lost during the run."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.chaos.trial import assert_same_vectors, vectors
from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill
from tests.processes import children, command
from viewfinder.sources.uris import point_id
from viewfinder.testing.qdrant import Fault, QdrantDouble
from viewfinder.testing.s3 import S3Endpoint

# Half a minute on an idle machine; much longer on a busy one.
pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{number:03}.jpg" for number in range(120)]
BROKEN = "broken.jpg"
UPSERT = r"^PUT .*/points"
WAIT_S = 240
# The job's metrics except failures: the node that writes its only failure may be the one that is lost.
EXPORTED = {
    "ray_viewfinder_job_objects_listed",
    "ray_viewfinder_job_objects_total",
    "ray_viewfinder_job_stage_objects_total",
    "ray_viewfinder_job_stage_seconds_total",
}


class TwoNodes:
    """A head and a worker node on this machine."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.infra.two_nodes"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        where = json.loads(self._answer())
        self.address: str = where["address"]
        self._metrics = f"http://127.0.0.1:{where['metrics_port']}/metrics"
        self._raylet: int = where["raylet"]

    def worker_is_busy(self) -> bool:
        """Return True while a stage runs on the second node; Ray names its processes after their tasks."""
        return any(command(child).startswith(("ray::Map", "ray::Write")) for child in children(self._raylet))

    def lose_the_worker(self) -> None:
        """Kill the raylet of the second node, and with it every process there."""
        assert self._process.stdin is not None
        self._process.stdin.write("lose\n")
        self._process.stdin.flush()
        assert self._answer() == "lost\n"

    def exported(self) -> set[str]:
        """The names of the metrics that the head's agent exports."""
        with urlopen(self._metrics, timeout=10) as answer:
            return set(re.findall(r"^(ray_viewfinder_\w+)\{", str(answer.read(), "utf-8"), re.MULTILINE))

    def close(self) -> None:
        self._process.communicate(timeout=WAIT_S)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Terminal:
    """The terminal of a job. `shown` has each count of its progress bar, with the number of points sent until then."""

    def __init__(self, sent: Callable[[], int]) -> None:
        self._ours, self.theirs = pty.openpty()
        self._sent = sent
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.text = ""
        self.shown: list[tuple[int, int]] = []

    def close(self) -> None:
        """Read to the end. The job must have ended."""
        os.close(self.theirs)
        self._thread.join(WAIT_S)
        os.close(self._ours)

    def _read(self) -> None:
        frame = ""
        try:
            while read := os.read(self._ours, 65536):
                self.text += (new := re.sub(r"\x1b\[[\d;?]*\w", "", read.decode(errors="replace")))
                *complete, frame = re.split(r"[\r\n]", frame + new)
                counts = [int(each[1]) for part in complete if (each := re.search(r"Indexing .*?(\d+)/\d+", part))]
                self.shown += [(count, self._sent()) for count in counts]
        except OSError:  # the process has closed its end of the terminal
            pass


@pytest.fixture
def two_nodes(s3: S3Endpoint, world: World) -> Iterator[TwoNodes]:
    # After `s3` and `world`: nodes inherit this environment, S3's credentials included.
    cluster = TwoNodes()
    yield cluster
    cluster.close()


JOB = [sys.executable, "jobs/index.py"]
# As for more objects than one process compares: the comparison streams to the other stages.
STREAMING = """
import runpy
from viewfinder.indexing import run
run.COMPARED_HERE = 0
runpy.run_path("jobs/index.py", run_name="__main__")
"""


@pytest.mark.chaos("Ray", "one of two nodes is lost")
@pytest.mark.parametrize("job", [JOB, [sys.executable, "-c", STREAMING]], ids=["compared first", "streaming"])
def test_a_job_survives_the_loss_of_a_node_with_the_right_points(
    job: list[str], world: World, qdrant: QdrantDouble, two_nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world.bucket, NAMES)
    (world.bucket / BROKEN).write_bytes(b"\xff\xd8\xff broken")
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    for name in ("FETCH_BATCH_SIZE", "ENCODE_BATCH_SIZE", "WRITE_BATCH_SIZE"):
        monkeypatch.setenv(f"VIEWFINDER_{name}", "4")
    # Slow writes, so that the node is lost before the job ends.
    slow = [Fault(delay_s=0.2, on=UPSERT) for _ in NAMES]
    qdrant.faults.extend(slow)
    world.report = world.directory / "report"
    command = [*job, world.source, "--report", str(world.report)]
    terminal = Terminal(lambda: len(sent(qdrant)))
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, stderr=terminal.theirs, env=environment) as process:
        try:
            until(lambda: len(slow) - len(qdrant.faults) >= 5 and two_nodes.worker_is_busy(), process, terminal)
            two_nodes.lose_the_worker()
            shown_before = len(terminal.shown)
            written = len(slow) - len(qdrant.faults)
            assert written < len(NAMES) / 4, "all was written before the node was lost"
            until(lambda: two_nodes.exported() >= EXPORTED, process, terminal)
            process.wait(WAIT_S)
        finally:
            process.kill()
    terminal.close()
    assert process.returncode == 0, terminal.text
    assert_progress_is_true(terminal.shown, shown_before)
    total = len(NAMES) + 1
    unchanged = world.counts["unchanged"]  # written by an attempt that was lost
    assert unchanged == 0 or job != JOB
    assert world.counts == {
        "listed": total,
        "unchanged": unchanged,
        "indexed": len(NAMES) - unchanged,
        "skipped": 0,
        "failed": 1,
        "pruned": 0,
    }
    assert {name: record.id for name, record in world.points.items()} == {
        name: point_id(f"{world.source}/{name}") for name in NAMES
    }
    written_despite_the_loss = vectors(world)

    qdrant.faults.clear()
    world.index = "reference"
    world.sync()
    assert_same_vectors(written_despite_the_loss, vectors(world))


def sent(qdrant: QdrantDouble) -> set[str]:
    """The ids of the points that were sent to Qdrant."""
    upserts = [each for each in qdrant.requests if re.search(UPSERT, f"{each.method} {each.path}")]
    return {point for each in upserts for point in each.body.get("batch", {}).get("ids", ())}


def assert_progress_is_true(shown: Sequence[tuple[int, int]], before_loss: int) -> None:
    """Progress grows with what is stored, on the node that stays too, and counts nothing twice."""
    counts = [count for count, _ in shown]
    assert counts == sorted(counts), "progress ran backwards"
    assert not [pair for pair in shown if pair[0] > pair[1] + 1], "more was counted than sent, and one failure"
    assert max(counts[:before_loss], default=0) < counts[-1] == len(NAMES) + 1
    assert len(set(counts[before_loss:])) > 5, "progress stood still after the loss"


def until(condition: Callable[[], bool], job: "subprocess.Popen[bytes]", terminal: Terminal) -> None:
    """Wait for a condition that must become true while the job runs."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert job.poll() is None, f"the job ended too early: {terminal.text}"
        assert time.monotonic() < deadline, f"the condition never became true: {terminal.text[-3000:]}"
        time.sleep(0.1)
