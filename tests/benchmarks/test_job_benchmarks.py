"""Arithmetic and measuring tools of the job benchmarks, without Ray."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.breakdown import ROLES, Profile
from benchmarks.bucket import bucket
from benchmarks.discarding import discarding_store
from benchmarks.growth import Growth, growth_of_memory
from benchmarks.harness import Benchmark, WrongAnswerError, run
from benchmarks.job import Run
from benchmarks.margin import Margin
from benchmarks.pipeline_efficiency import Cost, allowed
from benchmarks.processes import Memory, Watch, cpu_s, family, stolen_s
from benchmarks.vs_plain_loop import Compared
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import point_id
from viewfinder.store import StoreAddress, connect
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow


def finished(seconds: float, driver: float = 0, workers: float = 0) -> Run:
    return Run(seconds, {}, Memory(driver, workers, 0))


def test_a_margin_excludes_start_up() -> None:
    margin = Margin(few=100, few_s=40, many=1100, many_s=60)
    assert margin.per_second == 50
    assert margin.start_up_s == 38


def test_a_margin_of_a_longer_run_that_was_faster_gives_no_figure() -> None:
    def measure(quick: bool) -> float:
        return Margin(few=100, few_s=40, many=1100, many_s=40).per_second

    (result,) = run([Benchmark("speed", 1, "higher", measure)], ["speed"], quick=False)
    assert (result.value, result.broke) == (None, False)
    assert "not slower: 1,100 in 40.0 s, 100 in 40.0 s" in result.detail


def test_a_margin_of_several_runs_is_that_of_their_medians() -> None:
    margin = Margin.of({100: [40, 90, 41], 1100: [61, 60, 200]})
    assert (margin.few_s, margin.many_s, margin.rounds) == (41, 61, 3)
    assert margin.per_second == 50
    assert "medians of 3" in margin.runs


def test_the_breakdown_counts_the_processes_below_one_by_role(tmp_path: Path) -> None:
    burn = "import sys\nprint('ready', flush=True)\nwhile not sys.stdin.closed and sum(range(10_000)): pass"
    rclone = tmp_path / "rclone"  # the role follows from the command line
    rclone.write_text(burn)
    with subprocess.Popen([sys.executable, str(rclone)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with Profile(every_s=0.5, pid=child.pid) as profile:
            deadline = time.monotonic() + 60
            while not profile.lines and time.monotonic() < deadline:
                time.sleep(0.05)
        child.kill()
    _, shares = profile.lines[0]
    assert shares["S3"] > 0.01
    assert [name for name in (*ROLES, "other") if shares[name]] == ["S3"]
    assert profile.together == [], "no stage of a job runs"


def test_stages_share_the_cores_and_a_gpu_encodes_beside_them() -> None:
    costs = {"fetch and decode": Cost(cpu_s=0.008, seconds=0.006), "encode": Cost(cpu_s=0.002, seconds=0.001)}
    assert allowed(costs, cores=2, on_gpu=False) == pytest.approx(200)
    assert allowed(costs, cores=2, on_gpu=True) == pytest.approx(250), "the decoders are slower"
    assert allowed(costs, cores=16, on_gpu=True) == pytest.approx(1000), "the encoder is"


def test_the_job_and_a_loop_are_compared_by_their_margins() -> None:
    job, loop = Margin(1000, 40, 2000, 52.5), Margin(200, 20, 1000, 60)
    measured = Compared(job, {"open_clip": loop}, {"open_clip": 0.995}, "JPEGs").beside("open_clip")
    assert measured.value == 4
    assert "whole runs with start-up 1.50" in measured.detail


def test_a_loop_with_other_vectors_gives_no_value() -> None:
    margin = Margin(200, 30, 1000, 40)
    with pytest.raises(WrongAnswerError, match=r"falls to 0\.9800"):
        Compared(margin, {"open_clip": margin}, {"open_clip": 0.98}, "JPEGs").beside("open_clip")


def test_growth_of_memory_is_the_larger_of_driver_and_workers() -> None:
    assert growth_of_memory(finished(1, 100, 1000), finished(1, 150, 1100)) == 1.5
    assert growth_of_memory(finished(1, 100, 1000), finished(1, 100, 2000)) == 2


def test_linear_time_gives_one_for_any_start_up() -> None:
    straight = Growth((10, 30, 100), [finished(21), finished(23), finished(30)], "")
    assert straight.time == pytest.approx(1)
    bent = Growth((10, 30, 100), [finished(21), finished(23), finished(37)], "")
    assert bent.time == pytest.approx(2)


def test_cpu_seconds_include_those_of_ended_children() -> None:
    before = cpu_s(family(os.getpid()))
    burn = "import time; began = time.process_time()\nwhile time.process_time() - began < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert cpu_s(family(os.getpid())) - before >= 0.45


def test_stolen_time_is_that_of_our_cores() -> None:
    assert 0 <= stolen_s() <= time.monotonic() * len(os.sched_getaffinity(0)), "since boot"


def test_a_watch_counts_cpu_seconds_of_ended_workers() -> None:
    burn = "import time; began = time.process_time()\nwhile time.process_time() - began < 2: pass"
    # Like Ray's raylet, it does not wait for ended children.
    start = (
        "import signal, subprocess, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"for _ in range(2): subprocess.Popen([sys.executable, '-c', {burn!r}]).wait()\n"
        "print('done', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with Watch(child.pid) as watch:
            child.stdout.readline()
        child.communicate(b"\n")
    # At most half a second of each is missed.
    assert watch.cpu_s > 2.5, "the first worker's time is missing"


def test_a_watch_separates_memory_of_driver_and_workers() -> None:
    hold = "held = bytearray(64 * 2**20); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with Watch(os.getpid()) as watch:
            deadline = time.monotonic() + 30
            while not watch.peak.workers and time.monotonic() < deadline:
                time.sleep(0.05)
        child.communicate(b"\n")
    assert watch.peak.workers >= 64
    assert watch.peak.driver > 0


def test_the_discarding_store_counts_points_and_keeps_none(tmp_path: Path) -> None:
    with discarding_store() as server, connect(StoreAddress(data_dir=tmp_path, url=server.url)) as store:
        assert store.check() == "1.20.0"
        collection = store.collections.open("images", ModelIdentity("demo", "abc", 4))
        ids = [point_id(f"s3://bucket/{number}") for number in range(300)]
        batch = PointBatch(ids, [{"uri": "s3://bucket/x"}] * 300, image=np.ones((300, 4), np.float32))
        store.points.upsert(collection, batch, wait=True)
        assert server.received() == 300
        assert store.points.states(collection, ids) == {}
        assert store.control("images").takedowns(ids) == {}
        assert store.points.count(collection) == 0
        assert store.collections.live("images") == collection


def test_a_bucket_has_many_keys_over_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket(tmp_path / "s3", [(32, 24), (24, 32)], 7, each=2, kept=tmp_path) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        with Objects(ObjectAccess(endpoint_url=made.environment["AWS_ENDPOINT_URL"])) as objects:
            listed = list(objects.list(made.source))
            contents = {objects.read(info.uri, max_bytes=10**6)[0] for info in listed}
    assert len(listed) == made.count == 7
    assert contents == {path.read_bytes() for path in made.files}
    assert len(contents) == 4
