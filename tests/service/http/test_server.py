"""A service over a Qdrant server: what it cannot do, and what happens while it does not answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.conftest import World, open_world
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble


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
