import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from viewfinder.cluster.resources import CORES_RESOURCE, Workers
from viewfinder.cluster.session import join_ray
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress
from viewfinder.store.embedded import close_holder, ensure_holder


@pytest.mark.parametrize(("cores", "cpus"), [(1, 4), (2, 4), (6, 8)])
def test_a_job_starts_ray_with_the_real_number_of_cores_for_decoders(
    cores: int, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, Any] = {}

    @contextmanager
    def start_ray(address: StoreAddress, **options: Any) -> Iterator[None]:
        started.update(options)
        yield

    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    monkeypatch.setattr("viewfinder.cluster.session.start_ray", start_ray)
    monkeypatch.setattr("viewfinder.cluster.session.cpu_cores", lambda: cores)
    settings = Settings.load({})
    with join_ray(settings, StoreAddress(tmp_path, "http://127.0.0.1:9")):
        pass
    assert (started["num_cpus"], started["resources"]) == (cpus, {CORES_RESOURCE: cores})
    resources = {"CPU": float(cpus), CORES_RESOURCE: float(cores)}
    assert Workers.plan(settings, resources, resources).max_decoders == cores


_PRINT_ACCESS_OF_A_WORKER = """
import json, os, sys
from pathlib import Path

import ray

from viewfinder.cluster.session import start_ray
from viewfinder.store import StoreAddress

with start_ray(StoreAddress(Path(sys.argv[1]))):
    print(json.dumps(ray.get(ray.remote(num_cpus=0)(lambda: dict(os.environ)).remote())))
"""


@pytest.mark.cluster
def test_workers_of_a_job_have_its_credentials_not_those_of_the_program_that_started_ray(
    ray_session: None, tmp_path: Path
) -> None:
    assert "AWS_ACCESS_KEY_ID" in os.environ  # inherited by the workers of the session's Ray
    ensure_holder(tmp_path, lock_wait_s=30)
    try:
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        job = subprocess.run(
            [sys.executable, "-c", _PRINT_ACCESS_OF_A_WORKER, str(tmp_path)],
            env={**own, "AWS_PROFILE": "partner", "HTTPS_PROXY": "http://proxy:3128"},
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        close_holder(tmp_path)
    worker = json.loads(job.stdout)
    assert {name for name in worker if name.startswith("AWS_")} == {"AWS_PROFILE"}
    assert (worker["AWS_PROFILE"], worker["HTTPS_PROXY"]) == ("partner", "http://proxy:3128")
