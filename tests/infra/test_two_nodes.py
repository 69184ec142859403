"""The index job on two Ray nodes, one of which is lost during the run."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
        """Kill every process of the second node."""
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


@pytest.fixture
def two_nodes(s3: S3Endpoint, world: World) -> Iterator[TwoNodes]:
    # After `s3` and `world`: nodes inherit this environment, S3's credentials included.
    cluster = TwoNodes()
    yield cluster
    cluster.close()


@pytest.mark.chaos("Ray", "one of two nodes is lost")
def test_a_job_survives_the_loss_of_a_node_with_the_right_points(
    world: World, qdrant: QdrantDouble, two_nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
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
    command = [sys.executable, "jobs/index.py", world.source, "--report", str(world.report)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as job:
        try:
            until(lambda: len(slow) - len(qdrant.faults) >= 5 and two_nodes.worker_is_busy(), job)
            two_nodes.lose_the_worker()
            written = len(slow) - len(qdrant.faults)
            assert written < len(NAMES) / 4, "all was written before the node was lost"
            until(lambda: two_nodes.exported() >= EXPORTED, job)
            _, said = job.communicate(timeout=WAIT_S)
        finally:
            job.kill()
    assert job.returncode == 0, said
    total = len(NAMES) + 1
    assert world.counts == {
        "listed": total,
        "unchanged": 0,
        "indexed": len(NAMES),
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


def until(condition: Callable[[], bool], job: "subprocess.Popen[str]") -> None:
    """Wait for a condition that must become true while the job runs."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert job.poll() is None, f"the job ended too early: {job.communicate()[1]}"
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.1)
