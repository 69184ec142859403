"""Texts that cannot be searched by: without a visible character, or without a vector."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.service.conftest import World
from tests.service.http.searching import as_base64
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.generation import Generation, LoadedModel

pytestmark = pytest.mark.slow

BLANK = ["", " ", "\t\n", "\u200b", "\u3000\u00a0", "\u2060\ufeff", "\u3164\u115f", "\u2800", "\u0301", "\U000e0041"]

Send = Callable[[World, str], Any]


def form(world: World, text: str) -> Any:
    return world.client.post("/v1/search/batch", json={"searches": [{"text": "a cat"}, {"text": text}]})


WAYS: dict[str, tuple[Send, str]] = {
    "search": (lambda world, text: world.client.post("/v1/search", json={"text": text}), "text:"),
    "words": (lambda world, text: world.client.post("/v1/search", json={"text": text, "rank": "words"}), "text:"),
    "part": (
        lambda world, text: world.client.post("/v1/search", json={"queries": [{"text": "a"}, {"text": text}]}),
        "queries.1.text:",
    ),
    "address": (lambda world, text: world.client.get("/v1/search", params={"q": text}), "q:"),
    "embed": (lambda world, text: world.client.post("/v1/embed", json={"texts": ["a", text]}), "texts.1:"),
    "openai": (lambda world, text: world.client.post("/v1/embeddings", json={"input": ["a", text]}), "input.1"),
    "openai alone": (lambda world, text: world.client.post("/v1/embeddings", json={"input": text}), "input.0"),
    "rerank": (
        lambda world, text: world.client.post("/v1/rerank", json={"query": "a", "documents": ["a", text]}),
        "documents.1",
    ),
    "rerank by": (
        lambda world, text: world.client.post("/v1/rerank", json={"query": text, "documents": ["a"]}),
        "query",
    ),
    "rank": (
        lambda world, text: world.client.post("/v1/rank", json={"image": as_base64(), "texts": ["a", text]}),
        "texts.1:",
    ),
    "rank by text": (
        lambda world, text: world.client.post("/v1/rank", json={"images": [as_base64()], "text": text}),
        "text:",
    ),
}


def status_of(way: str) -> int:
    return 400 if way.startswith(("openai", "rerank")) else 422


@pytest.mark.parametrize("text", BLANK, ids=ascii)
@pytest.mark.parametrize("way", WAYS)
def test_a_text_without_a_visible_character_is_refused_everywhere(shared: World, way: str, text: str) -> None:
    send, named = WAYS[way]
    answer = send(shared, text)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status_of(way), "invalid_request")
    message = answer.json()["error"]["message"]
    assert message.startswith(named)
    assert "empty" in message or "no visible character" in message
    assert "should have" not in message


@pytest.mark.parametrize("text", ["a", "猫", "?", "🐈", " a ", "é", "1", "ㅋ"])
def test_a_text_with_a_visible_character_is_searched(shared: World, text: str) -> None:
    assert shared.client.post("/v1/search", json={"text": text}).status_code == 200


class Broken:
    """An encoder that makes no finite vector of the text "broken" and of no image."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_texts(self, texts: list[str]) -> Any:
        vectors, cut = self._encoder.encode_texts(texts)
        vectors[[text == "broken" for text in texts]] = np.nan
        return vectors, cut

    def encode_images(self, images: Any) -> Any:
        return self._encoder.encode_images(images) * np.float32(np.inf)


@pytest.fixture
def broken(served: World) -> World:
    follower = served.service.follower
    generation = follower.snapshot()
    encoder: Any = Broken(generation.encoder)
    follower._pair = (Generation(generation.collection, LoadedModel(encoder, batch_size=8)), None)
    return served


@pytest.mark.parametrize("way", [each for each in WAYS if each != "words"])
def test_a_text_whose_vector_is_not_finite_is_refused(broken: World, way: str) -> None:
    send, named = WAYS[way]
    answer = send(broken, "broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status_of(way), "invalid_request")
    message = answer.json()["error"]["message"]
    assert "not finite" in message
    if "rank" not in way:  # its image is refused first
        assert message.startswith({"q:": "text:"}.get(named, named.removeprefix("queries.1.")))


def test_an_image_whose_vector_is_not_finite_is_refused(broken: World) -> None:
    for answer in (
        broken.client.post("/v1/search", json={"image": as_base64()}),
        broken.client.post("/v1/embed", json={"images": [as_base64()]}),
        broken.client.post("/v1/rank", json={"image": as_base64(), "texts": ["a"]}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
        assert "not finite" in answer.json()["error"]["message"]


def test_in_a_batch_only_the_search_without_a_vector_is_refused(broken: World) -> None:
    searches = [{"text": "a cat"}, {"text": "broken"}]
    first, second = broken.client.post("/v1/search/batch", json={"searches": searches}).json()["results"]
    assert first["hits"]
    assert (second["status"], second["error"]["code"]) == (422, "invalid_request")


def test_64_texts_of_the_maximum_length_are_read_however_they_are_escaped(shared: World) -> None:
    """Regression: emoji as JSON escapes were more bytes than a request of texts could have."""
    body = json.dumps({"input": ["🐈" * 4_000] * 64})
    assert body.isascii()
    answer = shared.client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 64
