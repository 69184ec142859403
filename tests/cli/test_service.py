"""Which service a command uses, and when it opens the store instead."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Viewfinder
from tests.fixtures.services import INDEX, Running, create_collection, listening
from viewfinder.cli.service import find_service
from viewfinder.errors import ConfigurationError, ServiceError
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, open_local

pytestmark = pytest.mark.slow


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
        (
            {"index": "cats"},
            "does not search index 'cats': there is no index 'cats'; known are 'photos', so it is not used",
        ),
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
    with pytest.raises(ConfigurationError, match=r"does not search index 'cats'.*'photos'\. Name the service of that"):
        find_service(_load(running, index="cats", named=True))


@pytest.fixture
def two_indexes(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """VIEWFINDER_SERVER names a service of the indexes `photos`, the default one, and `drawings`."""
    with open_local(StoreAddress(data_dir=tmp_path / "store")) as store:
        models = Models(lambda checkpoint: Encoder.load(checkpoint, device="cpu"), batch_size=8)
        followers = [Follower(store, each, models, refresh_s=3600) for each in ("photos", "drawings")]
        service = SearchService(store, followers, Settings.load({}))
        for each in followers:
            store.collections.promote(each.index, create_collection(store, each.index, tiny_model).name)
            each.refresh()
        with listening(service) as url:
            monkeypatch.setenv("VIEWFINDER_SERVER", url)
            yield
        service.close()


@pytest.mark.usefixtures("two_indexes")
def test_a_command_asks_the_index_that_it_names(viewfinder: Viewfinder) -> None:
    for flags, index in (((), "photos"), (("--index", "drawings"), "drawings")):
        found = json.loads(viewfinder("search", "a cat", *flags, "--json").out)
        assert found["collection"].startswith(f"{index}__")
        status = json.loads(viewfinder("status", *flags, "--json").out)
        assert status["service"]["index"] == index
        assert [each["name"] for each in status["indexes"]] == ["photos", "drawings"]
    shown = viewfinder("status").out
    assert "drawings\t" in shown
    done = viewfinder("search", "a cat", "--index", "cats")
    done.check_message(2, "there is no index 'cats'; known are 'photos', 'drawings'")


def test_a_service_without_an_index_is_not_taken_for_one_of_the_given_index(
    without_index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = {"VIEWFINDER_PORT": without_index.rpartition(":")[2]}
    assert find_service(Settings.load(port, index=INDEX)) is None
    assert "does not say which index it searches" in capsys.readouterr().err
    with pytest.raises(ServiceError, match="no index"):
        find_service(Settings.load(port, index=INDEX, server=without_index))


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
    assert "does not search index 'cats'" in done.err


def test_a_program_that_listens_but_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert find_service(Settings.load({}, port=port), probe_timeout_s=0.05) is None
    said = f"A program listens at http://localhost:{port}, but did not answer in 0.05 s, so it is not used.\n"
    assert capsys.readouterr().err == said


def test_a_refused_connection_is_no_service(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_service(Settings.load({}, port=unused_port)) is None
    assert capsys.readouterr().err == ""
