"""The re-index from end to end: the job itself, on Ray, ended by the kernel where it hurts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.reindex import main
from tests.jobs.conftest import World
from tests.jobs.pictures import fill, picture
from viewfinder.models import locate
from viewfinder.store import Collection
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{number:03}.jpg" for number in range(60)]


@pytest.fixture
def indexed(world: World, other_model: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Sixty pictures under the first model, while the settings ask for the other."""
    fill(world.bucket, NAMES)
    world.sync()
    monkeypatch.setenv("VIEWFINDER_MODEL", other_model)
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:9")
    return world


def reindex(world: World, *flags: str) -> int:
    world.runs += 1
    world.report = world.directory / f"report-{world.runs:02}"
    return main(["--report", str(world.report), *flags])


def collections(world: World) -> dict[str, Collection]:
    return {each.metadata.model_name: each for each in world.store.collections(world.index)}


def test_the_job_changes_the_model_and_the_next_run_has_nothing_to_do(indexed: World, other_model: str) -> None:
    assert reindex(indexed) == 0
    assert indexed.collection.metadata.fingerprint == locate(other_model).fingerprint
    assert set(indexed.points) == set(NAMES)
    summary = indexed.summary
    assert summary["outcome"].startswith("switched from")
    assert all(check["passed"] is not False for check in summary["checks"])
    (indexed.bucket / "007.jpg").write_bytes(picture(900))
    assert reindex(indexed) == 0
    assert indexed.counts == {"listed": 60, "unchanged": 59, "failed": 0, "indexed": 1, "pruned": 0}


def some_points_of_it(world: World, model: str) -> bool:
    new = collections(world).get(model)
    return new is not None and world.store.count(new) > 10


def it_is_live(world: World, model: str) -> bool:
    return world.collection.metadata.model_name == model


@pytest.mark.chaos("Ray", "the driver of a re-index is killed, the job run again")
@pytest.mark.parametrize("reached", [some_points_of_it, it_is_live])
def test_a_job_that_is_killed_leaves_an_index_that_answers_and_a_rerun_completes_it(
    indexed: World, qdrant: QdrantDouble, other_model: str, reached: Callable[[World, str], bool]
) -> None:
    before = indexed.collection
    # A slow store, so that there is a middle to be killed in.
    qdrant.faults.extend(Fault(delay_s=0.3, on=r"PUT .*/points") for _ in range(40))
    qdrant.faults.extend(Fault(delay_s=1.0, on=r"POST .*__0002/points/scroll") for _ in range(40))
    log = indexed.directory / "log.txt"
    with log.open("wb") as file:
        job = subprocess.Popen(
            [sys.executable, "jobs/reindex.py"],
            cwd=ROOT,
            env=os.environ | {"VIEWFINDER_WRITE_BATCH_SIZE": "4", "VIEWFINDER_FETCH_BATCH_SIZE": "4"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    deadline = time.monotonic() + 200
    while job.poll() is None and time.monotonic() < deadline and not reached(indexed, other_model):
        assert indexed.store.count(before) == 60
        time.sleep(0.1)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert job.returncode == -signal.SIGKILL, f"over before it could be killed: {log.read_text()}"
    qdrant.faults.clear()
    assert len(indexed.points) == 60, "what is live is whole"

    (indexed.bucket / "new.jpg").write_bytes(picture(901))
    assert reindex(indexed) == 0
    assert it_is_live(indexed, other_model)
    assert set(indexed.points) == {*NAMES, "new.jpg"}
    assert len(indexed.store.collections(indexed.index)) == 2


@pytest.mark.chaos("Qdrant", "503 in the middle of a re-index")
def test_a_store_that_is_away_for_a_while_delays_the_job_and_no_more(
    indexed: World, qdrant: QdrantDouble, other_model: str
) -> None:
    qdrant.faults.extend(Fault(status=503, on=r"PUT .*__0002/points|PUT .*__control/points") for _ in range(4))
    assert reindex(indexed) == 0
    assert it_is_live(indexed, other_model)
    assert not qdrant.faults, "each fault was met"


@pytest.mark.parametrize(
    ("flags", "environment", "status", "said"),
    [
        (["--index", "nothing"], {}, 2, "jobs/index.py --source"),
        (["--model", "ViT-B-23::openai"], {}, 2, "ViT-B-32::openai"),
        (["--rollback"], {}, 2, "no former collection"),
        (["--golden", "/no/such/file.jsonl"], {}, 2, "/no/such/file.jsonl"),
        (["--status"], {"VIEWFINDER_QDRANT_URL": "http://127.0.0.1:9"}, 1, "http://127.0.0.1:9"),
    ],
)
def test_a_mistake_is_one_clear_message(
    indexed: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    environment: dict[str, str],
    status: int,
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(flags) == status
    error = capsys.readouterr().err
    assert said in error[error.index("error: ") :]
    assert "Traceback" not in error
