"""Jobs on Ray without a cluster: when Ray starts, and what its processes load."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fixtures.indexing import LIMITS, World
from tests.fixtures.options import index_options
from tests.indexing.sample_images import fill
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.report import Summary
from viewfinder.indexing.rows import rows_of, table_of
from viewfinder.indexing.run import index
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import Store, StoreAddress, open_local
from viewfinder.store.baselines import MINIMUM_VECTORS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"open_clip", "torch", "torchvision", "transformers"}
# The job as `python jobs/index.py` runs it, and what its process has imported.
JOB = f"""
import json, sys
from jobs.index import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted({HEAVY | {"ray"}!r} & sys.modules.keys())]))
"""


def job(*arguments: str, **environment: str) -> tuple[int, set[str], str]:
    """The exit status of a job without a cluster, which of Ray and the heavy packages it imported, and its log."""
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    done = subprocess.run(
        [sys.executable, "-c", JOB, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    return status, set(loaded), done.stderr


@pytest.mark.slow
def test_a_run_that_finds_nothing_new_starts_no_ray_and_loads_no_model(world: World, tmp_path: Path) -> None:
    fill(world.bucket, ["0.jpg", "1.jpg"])
    assert world.sync()["indexed"] == 2
    status, loaded, said = job(world.source, "--report", str(tmp_path / "report"))
    assert status == 0, said
    assert loaded == set()
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert (summary["counts"]["unchanged"], summary["counts"]["indexed"]) == (2, 0)


@pytest.mark.slow
def test_a_small_job_starts_no_ray(world: World, tmp_path: Path) -> None:
    fill(world.bucket, ["0.jpg", "1.jpg"])
    status, loaded, said = job(world.source, "--report", str(tmp_path / "report"))
    assert status == 0, said
    assert "ray" not in loaded
    assert set(world.points) == {"0.jpg", "1.jpg"}


@pytest.mark.full
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_the_driver_writes_to_an_embedded_store_that_workers_cannot_reach(tmp_path: Path, tiny_model: str) -> None:
    from viewfinder.cluster.executor import RayExecutor

    class LocalRay(RayExecutor):
        """Checks the access here, as a job with its own Ray does."""

        def check(self, sources: Sequence[str], access: ObjectAccess, store: Store) -> None: ...

    fill(tmp_path / "images", ["0.jpg", "1.jpg", "2.jpg"])
    (tmp_path / "images" / "3.jpg").write_bytes(b"no image")
    settings = Settings.load({}, model=tiny_model, data_dir=tmp_path / "data", device="cpu")
    options = index_options(["--source", str(tmp_path / "images"), "--max-failure-ratio", "1"])
    with open_local(StoreAddress.of(settings)) as store:
        summary = index(options, settings, store, LocalRay(local=True))
        assert isinstance(summary, Summary)
        assert (summary.counts["indexed"], summary.counts["skipped"]) == (3, 1)
        collection = store.collections.live("images")
        assert collection is not None
        assert store.points.count(collection) == 3


@pytest.mark.full
@pytest.mark.cluster
def test_a_job_on_its_own_ray_keeps_the_embedded_store_to_itself(tmp_path: Path, tiny_model: str) -> None:
    fill(tmp_path / "images", [f"{number}.jpg" for number in range(MINIMUM_VECTORS)])
    status, loaded, said = job(
        str(tmp_path / "images"),
        RAY_ADDRESS="local",
        VIEWFINDER_DATA_DIR=str(tmp_path / "data"),
        VIEWFINDER_MODEL=tiny_model,
    )
    assert status == 0, said
    assert "ray" in loaded
    with open_local(StoreAddress(tmp_path / "data")) as store:
        collection = store.collections.live("images")
        assert collection is not None
        assert store.points.count(collection) == MINIMUM_VECTORS
        assert collection.metadata.baselines, "the texts were encoded without a worker"


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_fetches_and_decodes_imports_no_torch(tmp_path: Path, tiny_model: str) -> None:
    import ray

    fill(tmp_path, ["0.jpg"])
    fetch = FetchAndDecode(
        ObjectAccess(), locate(tiny_model).preprocess, LIMITS, threads=1, timeout_s=60, memory_bytes=2**30
    )
    table = table_of([{"id": "0", "action": "index", "count": 1, "uri": f"file://{tmp_path}/0.jpg", "size": -1}])

    def run() -> tuple[object, set[str]]:
        return fetch(table), {*HEAVY, "qdrant_client"} & sys.modules.keys()

    # Another environment, so that no worker of an earlier test takes the task.
    fresh = {"env_vars": {"VIEWFINDER_TEST": uuid.uuid4().hex}}
    fetched, loaded = ray.get(ray.remote(num_cpus=0, runtime_env=fresh)(run).remote())
    (row,) = rows_of(fetched)
    assert (row["action"], row["pixels"] is not None) == ("index", True), row["message"]
    assert loaded == set()
