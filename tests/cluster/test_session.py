from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from viewfinder.cluster.resources import CORES, Workers
from viewfinder.cluster.session import join_ray
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress


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
    assert (started["num_cpus"], started["resources"]) == (cpus, {CORES: cores})
    resources = {"CPU": float(cpus), CORES: float(cores)}
    assert Workers.plan(settings, resources, resources).max_decoders == cores
