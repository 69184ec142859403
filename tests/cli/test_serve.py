"""`viewfinder serve`: its port, and its end."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Viewfinder, program
from tests.fixtures.services import Running
from viewfinder.cli.entry import job
from viewfinder.cli.serve import _run_service, answer_while_starting, free_port, wait_for_interrupt
from viewfinder.errors import ConfigurationError, StoreUnavailableError
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, open_local
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("bound_to", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_that_another_program_shares_is_refused(bound_to: str, host: str) -> None:
    with socket.socket() as other:
        # As Ray Serve does; a second socket with this option could listen beside it.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((bound_to, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"Port {port} .* choose another port: viewfinder serve --port"):
            free_port(host, port)


def test_a_port_that_is_bound_but_not_listening_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="taken by another program"):
            free_port("127.0.0.1", other.getsockname()[1])


def test_a_free_port_is_taken_and_0_finds_one(unused_port: int) -> None:
    assert free_port("127.0.0.1", unused_port) == unused_port
    assert free_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize("host", ["256.0.0.1", "no.such.host.invalid"])
def test_a_host_that_does_not_exist_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="not an address of this machine"):
        free_port(host, 8000)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'192\.0\.2\.1' is not an address of this machine"):
        free_port("192.0.2.1", 8000)


@pytest.mark.slow
def test_a_port_of_a_running_service_is_named_as_such(running: Running) -> None:
    with pytest.raises(ConfigurationError, match="taken by a viewfinder service that is running already"):
        free_port("127.0.0.1", int(running.url.rpartition(":")[2]))


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's own handler of SIGINT, which programs under test may have replaced in this process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before or signal.default_int_handler)  # None: not set from Python


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_a_ready_service_is_not_a_failure(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    with job():  # raises `typer.Exit` with status 1 if an interrupt reaches it
        threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
        wait_for_interrupt()
    assert capsys.readouterr().err == "Stopping the service ...\n"


def test_the_port_answers_503_with_the_phase_until_a_replica_is_ready(unused_port: int) -> None:
    """Ray Serve's proxy listens on the same port long before a replica is ready."""
    url = f"http://127.0.0.1:{unused_port}/v1/search"
    with answer_while_starting("127.0.0.1", unused_port) as starting, proxy(unused_port):
        starting.phase = "loading the model"
        for _ in range(20):
            answer = httpx.post(url, content=b"x" * 100_000)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            error = answer.json()["error"]
            assert (error["code"], error["message"]) == ("not_ready", "The service is starting: loading the model.")
        assert httpx.head(url).status_code == 503
        starting.close()
        assert [httpx.get(url).status_code for _ in range(20)] == [204] * 20


def test_a_qdrant_that_does_not_run_is_reported(
    viewfinder: Viewfinder, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: the replica waited for it, and the command with it, for ever.
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", "http://127.0.0.1:9")
    done = viewfinder("serve", "--port", str(unused_port))
    done.check_message(1, "http://127.0.0.1:9")
    assert "Asking Qdrant ..." in done.err
    assert "Starting Ray ..." not in done.err


def test_the_port_answers_503_while_qdrant_is_asked(unused_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        settings = Settings.load({}, qdrant_url=f"http://127.0.0.1:{silent.getsockname()[1]}", port=unused_port)
        start = pool.submit(_run_service, settings, as_json=False)
        silent.settimeout(60)
        asked, _ = silent.accept()
        answer = httpx.get(f"http://127.0.0.1:{unused_port}/v1/search")
        silent.close()
        asked.close()
        with pytest.raises(StoreUnavailableError):
            start.result(timeout=60)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "The service is starting: asking Qdrant."


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_service_without_the_device_says_so(tiny_model: str, tmp_path: Path) -> None:
    # Regression: the message of Ray Serve, that deploying the application had failed, and the advice to try again.
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        store.collections.open("images", ModelIdentity.of(locate(tiny_model)))
    environment = {"VIEWFINDER_DATA_DIR": str(tmp_path), "VIEWFINDER_DEVICE": "cuda"}
    done = program(["serve", "--port", "0"], environment, timeout=850)
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert "on Ray Serve: The device 'cuda' is not available: torch" in message
    assert "Choose one of these or 'auto' (VIEWFINDER_DEVICE). Ray's logs are in" in message
    assert "Traceback" not in done.stderr


@contextmanager
def proxy(port: int) -> Iterator[None]:
    """A server that shares the port as Ray Serve's proxy does, and answers 204."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(10_000)
                        connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
