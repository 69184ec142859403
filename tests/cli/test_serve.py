"""`viewfinder serve`: its port, and its end."""

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.fixtures.services import Running
from viewfinder.cli.entry import job
from viewfinder.cli.serve import free_port, wait_for_interrupt
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
