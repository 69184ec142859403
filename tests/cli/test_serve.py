"""`viewfinder serve`: its port, and its end."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.fixtures.services import Running
from viewfinder.cli.entry import job
from viewfinder.cli.serve import answer_while_starting, free_port, wait_for_interrupt
from viewfinder.errors import ConfigurationError

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
