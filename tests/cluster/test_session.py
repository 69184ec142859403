import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

from viewfinder.cluster.resources import CORES_RESOURCE, Workers
from viewfinder.cluster.session import join_ray, start_ray, store_of
from viewfinder.errors import ConfigurationError, StoreBusyError, ViewfinderError
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress
from viewfinder.store.directory import Holder, store_directory, try_lock
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


SERVER = StoreAddress(Path("/nowhere"), "http://127.0.0.1:9")
Init = Callable[[Exception], list[str]]


@pytest.fixture
def failing_init(monkeypatch: pytest.MonkeyPatch) -> Init:
    """Lets `ray.init` raise an error; returns the addresses that it is called with."""

    def fail(error: Exception) -> list[str]:
        calls: list[str] = []

        def init(*, address: str, **options: Any) -> None:
            calls.append(address)
            raise error

        monkeypatch.setattr("ray.init", init)
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        return calls

    return fail


SOCKETS = OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /t/ray/sockets/p")
TOKEN = PermissionError(13, "Permission denied", "/root/.ray/auth_token")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            SOCKETS,
            r"/t/ray/sockets/p\. Its sockets lie in /long/ray: set RAY_TMPDIR to a directory with a shorter path",
        ),
        (TOKEN, r"/root/\.ray/auth_token'\. Ray keeps .*: set HOME to .*, or RAY_AUTH_TOKEN_PATH to a file"),
        (RuntimeError("Could not determine home directory."), "set HOME to"),
        (
            PermissionError(13, "Permission denied", "/long/ray/x"),
            "files lie in /long/ray: make it writable, or set RAY_",
        ),
        (
            RuntimeError("Failed to start GCS.\n Last lines of\n error files"),
            r"GCS\. Last lines of error files\. Try again",
        ),
        (ValueError("RAY_GCS_SERVER_PORT is no port"), "is no port. Try again"),
    ],
)
def test_a_ray_that_does_not_start_is_one_message(
    error: Exception, says: str, failing_init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: all of these were tracebacks of Ray.
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/long")
    calls = failing_init(error)
    with pytest.raises(ViewfinderError, match=rf"^Ray did not start on this machine: .*{says}"):
        start_ray(SERVER)
    assert calls == ["local"]


def test_a_ray_that_does_not_start_in_time_is_started_again(failing_init: Init) -> None:
    calls = failing_init(Exception("The current node timed out during startup."))
    with pytest.raises(ViewfinderError, match=r"timed out during startup\. Try again when the machine is less busy"):
        start_ray(SERVER)
    assert calls == ["local"] * 3


def test_an_error_of_this_program_keeps_its_traceback(failing_init: Init) -> None:
    failing_init(TypeError("unexpected argument"))
    with pytest.raises(TypeError):
        start_ray(SERVER)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionError("Could not find any running Ray instance."), r"any running Ray instance\. It must run"),
        (
            RuntimeError("Version mismatch: started with:\n    Ray: 2.50.0\n"),
            r"with: Ray: 2\.50\.0\. It must run the same",
        ),
        (AuthenticationError("No authentication token was found"), r"RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH"),
        (Exception("Head node temp_dir not found"), "temp_dir not found"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_message(
    error: Exception, says: str, embedded: bool, failing_init: Init, tmp_path: Path
) -> None:
    # Regression: a traceback of Ray.
    calls = failing_init(error)
    address = StoreAddress(tmp_path) if embedded else SERVER
    pattern = rf"^RAY_ADDRESS: the Ray cluster at 'auto' cannot be joined: .*{says}.* unset RAY_ADDRESS to run on this"
    with pytest.raises(ConfigurationError, match=pattern):
        start_ray(address, ray_address="auto")
    assert calls == ["auto"]


@pytest.mark.parametrize(
    ("answer", "is_tried"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", False),
        (b"<!DOCTYPE html>", False),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", True),  # settings of HTTP/2
        (b"\x15\x03\x01\x00\x02\x02", True),  # an alert of TLS
        (b"", True),
    ],
)
def test_the_port_of_another_program_is_refused_at_once(answer: bytes, is_tried: bool, failing_init: Init) -> None:
    # Regression: Ray tried to join the dashboard for minutes, and ended in a traceback.
    calls = failing_init(RuntimeError("Failed to connect to GCS."))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        says = "cannot be joined" if is_tried else f"no Ray cluster answers at '{address}', but another program"
        with pytest.raises(ConfigurationError, match=f"^RAY_ADDRESS: .*{says}"):
            start_ray(SERVER, ray_address=address)
        thread.join()
    assert calls == [address] * is_tried


def test_a_store_behind_a_ray_that_is_not_installed_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: the traceback of `import ray`.
    directory = store_directory(tmp_path)
    directory.mkdir()
    holder = replace(Holder.here("10.0.0.1:6379"), host="head")
    (directory / "holder.json").write_text(json.dumps(asdict(holder)))
    lock, find_spec = try_lock(directory / "holder.lock"), importlib.util.find_spec
    assert lock is not None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else find_spec(name))
    with (
        lock,
        pytest.raises(StoreBusyError, match=r"in the Ray at 10\.0\.0\.1:6379, .* pip install 'viewfinder\[all\]'\.$"),
        store_of(Settings.load({}, data_dir=tmp_path)),
    ):
        pass


@pytest.mark.slow
def test_a_ray_whose_sockets_have_too_long_a_path_is_one_message(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    program = "from tests.cluster.test_session import SERVER, start_ray; start_ray(SERVER, num_cpus=1)"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment, "TMPDIR": str(directory)}, capture_output=True, text=True
    )
    assert "ViewfinderError: Ray did not start on this machine: " in done.stderr.splitlines()[-1]
    assert "set RAY_TMPDIR to a directory with a shorter path" in done.stderr.splitlines()[-1]


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
