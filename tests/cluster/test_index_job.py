"""The index job end to end: a real S3 endpoint, a real Ray, a small model, and a Qdrant double over HTTP."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.chaos.trial import assert_same_vectors, vectors
from tests.fixtures.indexing import World
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.cli.entry import STOPPED
from viewfinder.indexing import run
from viewfinder.models.checkpoint import locate
from viewfinder.sources.uris import point_id
from viewfinder.store.baselines import MINIMUM_VECTORS, QUANTILES
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{number:02}.jpg" for number in range(12)]


def test_a_job_indexes_a_bucket_and_a_rerun_changes_nothing(world: World, tiny_model: str) -> None:
    fill(world.bucket, [*NAMES, "deep/er/中文 name.jpg"])
    assert world.run() == 0
    assert world.counts == {"listed": 13, "unchanged": 0, "indexed": 13, "skipped": 0, "failed": 0, "pruned": 0}
    assert world.failures == {}
    first = world.points
    assert set(first) == {*NAMES, "deep/er/中文 name.jpg"}
    payload = first["00.jpg"].payload
    assert payload["uri"] == f"{world.source}/00.jpg"
    assert (payload["width"], payload["height"], payload["format"]) == (48, 40, "jpeg")
    assert payload["sources"] == [world.source]
    assert payload["run_id"] == world.summary["run_id"]
    assert payload["size"] == (world.bucket / "00.jpg").stat().st_size

    assert world.run() == 0
    assert world.counts == {"listed": 13, "unchanged": 13, "indexed": 0, "skipped": 0, "failed": 0, "pruned": 0}
    assert world.points == first
    collection = world.collection
    assert collection.metadata.model_name == tiny_model
    assert list(collection.recorded.sources) == [world.source]
    assert len(collection.recorded.runs) == 2


@pytest.mark.full
def test_workers_compare_many_objects_before_an_encoder_starts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "COMPARED_HERE", 5)
    fill(world.bucket, NAMES)
    assert world.run() == 0
    first = world.points
    # No worker can ever encode: a run that needed one would wait.
    monkeypatch.setenv("VIEWFINDER_DEVICE", "cuda")
    assert world.run() == 0
    assert world.counts == {"listed": 12, "unchanged": 12, "indexed": 0, "skipped": 0, "failed": 0, "pruned": 0}
    monkeypatch.delenv("VIEWFINDER_DEVICE")
    (world.bucket / "new.jpg").write_bytes(encoded_image(77))
    assert world.run() == 0
    assert world.counts == {"listed": 13, "unchanged": 12, "indexed": 1, "skipped": 0, "failed": 0, "pruned": 0}
    assert set(world.points) == {*first, "new.jpg"}


@pytest.mark.full
def test_a_job_runs_beside_a_service_that_holds_all_but_one_core(world: World) -> None:
    import ray

    @ray.remote(num_cpus=3)
    class Service:
        def up(self) -> bool:
            return True

    fill(world.bucket, NAMES)
    service = Service.remote()
    assert ray.get(service.up.remote())
    try:
        assert world.run() == 0
    finally:
        ray.kill(service)
    assert world.counts["indexed"] == len(NAMES)


@pytest.mark.full
def test_every_broken_file_is_counted_and_not_fetched_again(world: World, qdrant: QdrantDouble) -> None:
    fill(world.bucket, NAMES)
    good = encoded_image(1)
    broken = {
        "empty.jpg": b"",
        "text.jpg": b"this is not an image",
        "cut.jpg": encoded_image(2, (400, 400))[:900],
        "page.html": b"<html><body>not here</body></html>",
        "huge.png": _bomb(),
    }
    for name, content in broken.items():
        (world.bucket / name).write_bytes(content)
    (world.bucket / "no-suffix").write_bytes(good)
    assert world.run() == 1, "two of fifteen is more than one in a hundred"
    assert world.counts == {"listed": 18, "unchanged": 0, "indexed": 13, "skipped": 3, "failed": 2, "pruned": 0}
    reasons = world.failures
    assert set(reasons) == {"cut.jpg", "huge.png"}
    skipped = world.summary["skipped"]
    assert (skipped["not_an_image"], skipped["empty"]) == (2, 1)
    assert reasons["cut.jpg"] == "truncated"
    assert reasons["huge.png"] == "too_many_pixels"

    assert world.run("--max-failure-ratio", "0.5") == 0
    assert world.counts == {"listed": 18, "unchanged": 13, "indexed": 0, "skipped": 3, "failed": 2, "pruned": 0}
    assert world.failures == reasons
    assert world.summary["images"] == 0, "nothing was fetched"

    (world.bucket / "text.jpg").write_bytes(encoded_image(3))
    assert world.run("--max-failure-ratio", "0.5") == 0
    assert world.counts == {"listed": 18, "unchanged": 13, "indexed": 1, "skipped": 2, "failed": 2, "pruned": 0}
    assert "text.jpg" in world.points


@pytest.mark.full
def test_taken_down_images_are_skipped_and_relevance_baselines_are_stored(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{number:02}.jpg" for number in range(MINIMUM_VECTORS + 1)]
    fill(world.bucket, names)
    world.store.take_down(world.index, {point_id(f"{world.source}/00.jpg"): f"{world.source}/00.jpg"})
    assert world.run() == 0
    assert world.counts == {"listed": 21, "unchanged": 0, "indexed": 20, "skipped": 1, "failed": 0, "pruned": 0}
    assert world.summary["skipped"]["taken_down"] == 1
    assert set(world.points) == set(names) - {"00.jpg"}
    baselines = world.collection.metadata.baselines
    assert baselines.keys() == {"text_image", "image_image"}
    assert all(len(quantiles) == QUANTILES for quantiles in baselines.values())

    capsys.readouterr()
    assert world.run("--dry-run") == 0
    assert re.search(r"would be skipped\s+1\b", capsys.readouterr().out)


@pytest.mark.full
def test_a_dry_run_prints_the_plan_and_changes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world.bucket, NAMES)
    assert world.run("--dry-run") == 0
    assert re.search(r"would be indexed\s+12\b", capsys.readouterr().out)
    assert world.store.collections.live(world.index) is None
    assert world.run() == 0
    before = world.points
    fill(world.bucket, ["new.jpg"], first_seed=50)
    (world.bucket / "07.jpg").unlink()
    assert world.run("--dry-run", "--prune") == 0
    said = capsys.readouterr().out
    assert "would be indexed" in said
    assert "would be pruned" in said
    assert world.points == before


@pytest.mark.full
def test_another_model_is_refused_with_both_fingerprints(
    world: World, tiny_model: str, other_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world.bucket, NAMES[:2])
    assert world.run() == 0
    assert world.run("--model", other_model) == 1
    said = capsys.readouterr().err
    assert locate(tiny_model).fingerprint in said
    assert locate(other_model).fingerprint in said
    assert "viewfinder reindex" in said


@pytest.mark.full
def test_a_run_without_a_model_uses_that_of_the_live_collection(
    world: World, other_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world.bucket, NAMES[:2])
    assert world.run() == 0
    monkeypatch.setenv("VIEWFINDER_MODEL", other_model)
    fill(world.bucket, ["new.jpg"], first_seed=50)
    assert world.run() == 0
    assert world.counts["indexed"] == 1


def interrupted(world: World, qdrant: QdrantDouble, by: signal.Signals, ray: str = "local") -> tuple[int, str]:
    """Send a signal to a job while it is writing; return its exit status and output.

    `ray` is the address of its Ray; with an empty one it runs without.
    """
    # A slow store, so that the signal arrives during the writes.
    qdrant.faults.extend(Fault(delay_s=0.3, on=r"PUT .*/points") for _ in range(60))
    environment = os.environ | {
        "RAY_ADDRESS": ray,
        "VIEWFINDER_WRITE_BATCH_SIZE": "8",
        "VIEWFINDER_FETCH_BATCH_SIZE": "8",
    }
    command = [sys.executable, "jobs/index.py", "--source", world.source]
    with tempfile.TemporaryFile("w+") as output:
        job = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            deadline = time.monotonic() + 400  # several Rays may start at once
            while job.poll() is None and time.monotonic() < deadline:
                live = world.store.collections.live(world.index)
                if live is not None and world.store.points.count(live) > 20:
                    break
                time.sleep(0.1)
            job.send_signal(by)
            job.wait(200)
        finally:
            job.kill()  # no effect if it has ended
            job.wait()
        qdrant.faults.clear()
        output.seek(0)
        return job.returncode, output.read()


@pytest.mark.full  # the simulation kills runs at every step
@pytest.mark.parametrize("ray", ["", "local"])
@pytest.mark.chaos("Ray", "the driver is killed, the job run again")
def test_a_killed_job_that_is_run_again_gives_the_same_points(world: World, qdrant: QdrantDouble, ray: str) -> None:
    names = [f"{number:04}.jpg" for number in range(120)]
    fill(world.bucket, names)
    status, said = interrupted(world, qdrant, by=signal.SIGKILL, ray=ray)
    assert status == -signal.SIGKILL, said
    killed_at = world.store.points.count(world.collection)
    assert 0 < killed_at < 120

    assert world.run() == 0
    counts = world.counts
    assert counts["indexed"] + counts["unchanged"] == 120
    assert counts["unchanged"] >= killed_at
    after_the_kill = {key: dict(record.payload) for key, record in world.points.items()}
    vectors_after_the_kill = vectors(world)

    # Index the same bucket again without the kill and without Ray.
    world.index = "whole"
    assert world.sync()["indexed"] == 120
    whole = {key: dict(record.payload) for key, record in world.points.items()}
    for payload in (*after_the_kill.values(), *whole.values()):
        del payload["run_id"], payload["indexed_at"]
    assert after_the_kill == whole
    assert_same_vectors(vectors_after_the_kill, vectors(world))


@pytest.mark.full
@pytest.mark.chaos("Ray", "the driver is terminated (SIGTERM)")
def test_a_terminated_job_says_how_to_continue(world: World, qdrant: QdrantDouble) -> None:
    names = [f"{number:04}.jpg" for number in range(200)]
    fill(world.bucket, names)
    status, said = interrupted(world, qdrant, by=signal.SIGTERM)
    assert status == 1, said
    assert STOPPED in said
    assert "SIGTERM" not in said, "Ray printed its own stack trace"
    assert "Traceback" not in said

    written = world.store.points.count(world.collection)
    assert 0 < written < 200
    assert world.run() == 0
    counts = world.counts
    assert counts["indexed"] + counts["unchanged"] == counts["listed"] == 200
    assert counts["unchanged"] >= written
    assert set(world.points) == set(names)


@pytest.mark.full
@pytest.mark.chaos("Qdrant", "lost for good: one message")
def test_qdrant_lost_for_good_ends_the_job_with_one_message(
    world: World, qdrant: QdrantDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world.bucket, NAMES)
    qdrant.faults.extend(Fault(status=503, on=r"PUT .*/points") for _ in range(10_000))
    assert world.run() == 1
    error = capsys.readouterr().err
    assert f"Qdrant at {qdrant.url}" in error
    assert "Traceback" not in error


@pytest.mark.full
def test_the_report_can_go_to_s3(world: World) -> None:
    fill(world.bucket, NAMES[:2])
    assert world.run("--report", f"{world.source}/reports/today") == 0
    summary = json.loads((world.bucket / "reports" / "today" / "summary.json").read_text())
    assert summary["counts"]["indexed"] == 2
    assert (world.bucket / "reports" / "today" / "failures.jsonl").read_text() == ""


def _bomb() -> bytes:
    """A small PNG file with 20,000 by 20,000 pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()
