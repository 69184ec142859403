"""Which service a command uses, and when it opens the store instead."""

import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Viewfinder
from tests.fixtures.services import INDEX, Running
from viewfinder.cli.service import find_service
from viewfinder.errors import ConfigurationError, ServiceError
from viewfinder.settings import Settings


@pytest.fixture
def at_port(running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Running:
    """The running service is found by its port, not named; its store is in another directory than ours."""
    monkeypatch.delenv("VIEWFINDER_SERVER", raising=False)
    monkeypatch.setenv("VIEWFINDER_PORT", running.url.rpartition(":")[2])
    return running


def _load(running: Running, *, named: bool = False, **given: object) -> Settings:
    environment = {"VIEWFINDER_PORT": running.url.rpartition(":")[2]}
    return Settings.load(environment, server=running.url if named else None, **given)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("index", [None, INDEX])
def test_a_service_of_the_same_index_is_used(running: Running, index: str | None, named: bool) -> None:
    client = find_service(_load(running, index=index, named=named))
    assert client is not None
    with client:
        assert client.stats().index == INDEX


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"index": "cats"}, "searches index 'photos', not 'cats', so it is not used"),
        ({"data_dir": "/elsewhere"}, "uses another store than the settings name, so it is not used"),
        ({"qdrant_url": "http://qdrant:6333"}, "uses another store than the settings name, so it is not used"),
    ],
)
def test_a_service_of_another_index_is_not_used(
    running: Running, given: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_service(_load(running, **given)) is None
    assert says in capsys.readouterr().err


def test_a_named_service_of_another_index_is_refused(running: Running) -> None:
    with pytest.raises(ConfigurationError, match=r"searches index 'photos', not 'cats'\. Name the service of that"):
        find_service(_load(running, index="cats", named=True))


def test_a_service_without_an_index_is_not_taken_for_one_of_the_given_index(
    without_index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = {"VIEWFINDER_PORT": without_index.rpartition(":")[2]}
    assert find_service(Settings.load(port, index="cats")) is None
    assert "does not say which index it searches" in capsys.readouterr().err
    with pytest.raises(ServiceError, match="no index"):
        find_service(Settings.load(port, index="cats", server=without_index))


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["takedown s3://bucket/1.jpg --yes", "restore s3://bucket/1.jpg", "search cat", "status"]
)
def test_no_command_acts_on_another_index(
    line: str, at_port: Running, viewfinder: Viewfinder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    done = viewfinder(*line.split(), "--index", "cats")
    assert "Using the service" not in done.err
    assert "There is no index 'cats'" in done.out + done.err
    monkeypatch.setenv("VIEWFINDER_SERVER", at_port.url)
    done = viewfinder(*line.split(), "--index", "cats")
    assert (done.status, done.out) == (2, "")
    assert "searches index 'photos', not 'cats'" in done.err


def test_a_program_that_listens_but_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert find_service(Settings.load({}, port=port), probe_timeout_s=0.05) is None
    said = f"A program listens at http://localhost:{port}, but did not answer in 0.05 s, so it is not used.\n"
    assert capsys.readouterr().err == said


def test_a_refused_connection_is_no_service(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_service(Settings.load({}, port=unused_port)) is None
    assert capsys.readouterr().err == ""
