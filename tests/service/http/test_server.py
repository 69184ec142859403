"""A service over a Qdrant server: what it cannot do, and what happens while it does not answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.conftest import World, open_world
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.service.search_service import SearchService
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = pytest.mark.slow


@pytest.fixture
def old_server(tmp_path: Path, checkpoints: dict[str, Checkpoint]) -> Iterator[World]:
    """A service over a Qdrant without BM25."""
    with QdrantDouble(version="1.19.3") as double:
        store = connect(StoreAddress(tmp_path, url=double.url, retry_s=0))
        with open_world(tmp_path, checkpoints, {}, store) as world:
            world.build("first")
            world.service.follower.refresh()
            yield world


@pytest.mark.parametrize("rank", ["words", "hybrid"])
def test_words_on_an_old_server_are_the_clients_error_and_name_the_version_needed(old_server: World, rank: str) -> None:
    """They were status 500 and "see the service's log"."""
    for answer in (
        old_server.client.post("/v1/search", json={"text": "a cat", "rank": rank}),
        old_server.client.post("/v1/search", json={"text": "a cat", "rank": rank, "group_by": "width"}),
        old_server.client.get("/v1/search", params={"q": "a cat", "rank": rank}),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "words_unavailable")
        assert "1.19" in error["message"]
        assert "1.20 or newer" in error["message"]
    searches = [{"text": "a cat", "rank": rank}, {"text": "a cat"}]
    refused, found = old_server.client.post("/v1/search/batch", json={"searches": searches}).json()["results"]
    assert (refused["status"], refused["error"]["code"]) == (422, "words_unavailable")
    assert found["hits"]


def test_statistics_tell_if_captions_can_be_searched_by_words(old_server: World, shared: World) -> None:
    assert old_server.client.get("/v1/stats").json()["words"] is False
    assert shared.client.get("/v1/stats").json()["words"] is True
    assert old_server.client.post("/v1/search", json={"text": "a cat"}).status_code == 200


def test_a_server_that_hangs_is_a_timeout_with_a_hint(tmp_path: Path, checkpoints: dict[str, Checkpoint]) -> None:
    """A frozen server held every search for the time limit of the job, a minute."""
    with QdrantDouble() as double:
        store = connect(StoreAddress(tmp_path, url=double.url, retry_s=1, timeout_s=1))
        with open_world(tmp_path, checkpoints, {}, store) as world:
            world.build("first")
            world.service.follower.refresh()
            for path, body in (
                ("/v1/search", {"text": "a cat"}),
                ("/v1/search", {"text": "a cat", "group_by": "width"}),
                ("/v1/search", {"id": world.client.post("/v1/search", json={"text": "a"}).json()["hits"][0]["id"]}),
            ):
                double.faults.append(Fault(delay_s=30, on="POST .*/points"))
                answer = world.client.post(path, json=body)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (504, "timeout")
                assert "VIEWFINDER_SEARCH_TIMEOUT_S" in error["hint"]
            assert world.client.post("/v1/search", json={"text": "a cat"}).status_code == 200


def test_searches_wait_for_the_server_as_long_as_their_setting_says(tmp_path: Path) -> None:
    limits: dict[str, object] = {"data_dir": tmp_path, "qdrant_url": "http://127.0.0.1:9"}
    usual, short = (
        SearchService.connect(Settings.load({}, **limits, search_timeout_s=seconds), Metrics())
        for seconds in (None, 2.5)
    )
    assert (usual.store.address.timeout_s, short.store.address.timeout_s) == (5.0, 2.5)
    usual.close()
    short.close()
