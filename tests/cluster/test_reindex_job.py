"""The re-index job end to end on Ray, also killed during the build."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.reindex import main
from tests.fixtures.indexing import World
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.models.checkpoint import locate
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{number:03}.jpg" for number in range(60)]


@pytest.fixture
def indexed(world: World, other_model: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Sixty images indexed with the first model, while the settings name the other one."""
    fill(world.bucket, NAMES)
    world.sync()
    monkeypatch.setenv("VIEWFINDER_MODEL", other_model)
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:9")
    return world


def reindex(world: World, *flags: str) -> int:
    world.runs += 1
    world.report = world.directory / f"report-{world.runs:02}"
    return main(["--report", str(world.report), *flags])


def test_the_job_changes_the_model_while_objects_change(indexed: World, qdrant: QdrantDouble, other_model: str) -> None:
    def change() -> None:
        while not written_to(qdrant, "__0002"):
            time.sleep(0.05)
        (indexed.bucket / "007.jpg").write_bytes(encoded_image(900, (64, 64)))
        (indexed.bucket / "008.jpg").unlink()
        (indexed.bucket / "new.jpg").write_bytes(encoded_image(901))

    changing = threading.Thread(target=change)
    changing.start()
    assert reindex(indexed) == 0
    changing.join()
    assert indexed.collection.metadata.fingerprint == locate(other_model).fingerprint
    assert set(indexed.points) == {*NAMES, "new.jpg"} - {"008.jpg"}
    assert indexed.points["007.jpg"].payload["width"] == 64
    summary = indexed.summary
    assert summary["outcome"].startswith("switched from")
    assert all(check["passed"] is not False for check in summary["checks"])

    assert reindex(indexed) == 0
    assert indexed.counts == {"listed": 60, "unchanged": 60, "indexed": 0, "skipped": 0, "failed": 0, "pruned": 0}
    assert indexed.summary["outcome"] == "brought up to date"


@pytest.mark.full
@pytest.mark.chaos("Ray", "the driver of a re-index is killed, the job run again")
def test_a_killed_job_leaves_a_working_index_and_a_rerun_completes_it(
    indexed: World, qdrant: QdrantDouble, other_model: str
) -> None:
    """Killed with the Ray that it started. tests/reindexing/test_workflow_killed.py covers the other phases."""
    before = indexed.collection
    # A slow store, so that the job can be killed during the build.
    qdrant.faults.extend(Fault(delay_s=0.5, on=r"PUT .*__0002/points") for _ in range(40))
    log = indexed.directory / "log.txt"
    with log.open("wb") as file:
        job = subprocess.Popen(
            [sys.executable, "jobs/reindex.py"],
            cwd=ROOT,
            env=os.environ
            | {"RAY_ADDRESS": "local", "VIEWFINDER_WRITE_BATCH_SIZE": "4", "VIEWFINDER_FETCH_BATCH_SIZE": "4"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    while job.poll() is None and written_to(qdrant, "__0002") < 3:
        time.sleep(0.1)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert job.returncode == -signal.SIGKILL, f"ended before it could be killed: {log.read_text()}"
    qdrant.faults.clear()
    assert indexed.collection == before
    assert len(indexed.points) == 60, "the live collection is incomplete"

    assert reindex(indexed) == 0
    assert indexed.collection.metadata.model_name == other_model
    assert set(indexed.points) == set(NAMES)
    assert len(indexed.store.collections.all(indexed.index)) == 2


def written_to(qdrant: QdrantDouble, ending: str) -> int:
    """Number of batches of points written to the collection with this ending."""
    return sum(each.method == "PUT" and each.path.endswith(f"{ending}/points") for each in qdrant.requests)
