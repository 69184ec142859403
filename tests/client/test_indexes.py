"""Which index the calls of a client ask."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from viewfinder.client import AsyncClient, Client, Part
from viewfinder.client.calls import Calls
from viewfinder.client.protocol import Attempt, advance
from viewfinder.settings import Settings

ID = "0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10"
SPELLED = "s3://photos/café.jpg"
"""A URI with two spellings, which the client looks up first."""
CALLS: dict[str, list[Callable[[Calls], Any]]] = {
    "search": [
        lambda calls: calls.search({"text": "a cat"}),
        lambda calls: calls.search({"order_by": "size"}),
        lambda calls: calls.search({"id": SPELLED}),
    ],
    "search_batch": [
        lambda calls: calls.search_batch([{"text": "a cat"}, {"text": "a dog"}]),
        lambda calls: calls.search_batch([{"queries": [Part(id=SPELLED)]}]),
    ],
    "embed": [lambda calls: calls.embed(["a cat"], []), lambda calls: calls.embed([], [b"image"])],
    "rank": [lambda calls: calls.rank({"text": "a cat"}, None, [b"image"])],
    "image": [lambda calls: calls.image(ID), lambda calls: calls.image(SPELLED)],
    "content": [lambda calls: calls.content(ID, None), lambda calls: calls.content(SPELLED, 64)],
    "facets": [lambda calls: calls.facets("tags", None, None)],
    "index_images": [lambda calls: calls.index_images(["s3://photos/a.jpg"])],
    "take_down": [lambda calls: calls.take_down(ID), lambda calls: calls.take_down(SPELLED)],
    "restore": [lambda calls: calls.restore(ID)],
    "takedowns": [lambda calls: calls.takedowns()],
    "stats": [lambda calls: calls.stats()],
}
ABOUT_THE_SERVICE = {"models", "indexes", "has_status"}


def asked(attempt: Any) -> list[str | None]:
    """The index that a request names, of a batch those of its searches."""
    assert isinstance(attempt, Attempt)
    if attempt.content is None:
        return list(parse_qs(urlsplit(attempt.url).query).get("index", [None]))
    assert "index=" not in attempt.url
    body = json.loads(attempt.content)
    return [each.get("index") for each in body.get("searches", [body])]


def test_every_call_is_listed_here() -> None:
    assert {name for name in vars(Calls) if not name.startswith("_")} == {*CALLS, *ABOUT_THE_SERVICE}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("index", ["photos", None])
def test_every_call_names_the_index_of_the_client(name: str, index: str | None) -> None:
    calls = Calls("http://localhost", None, 5, 0, index=index)
    for each in CALLS[name]:
        assert set(asked(advance(each(calls), None))) == {index}


def test_a_search_may_name_another_index() -> None:
    calls = Calls("http://localhost", None, 5, 0, index="photos")
    assert asked(advance(calls.search({"text": "a cat", "index": "drawings"}), None)) == ["drawings"]
    assert asked(advance(calls.search({"id": SPELLED, "index": "drawings"}), None)) == ["drawings"]
    batch = calls.search_batch([{"text": "a cat"}, {"text": "a cat", "index": "drawings"}])
    assert asked(advance(batch, None)) == ["photos", "drawings"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_of_settings_asks_the_index_that_they_name(kind: Any) -> None:
    assert kind.of(Settings.load({"VIEWFINDER_INDEX": "photos"}))._calls._index == "photos"
    assert kind.of(Settings.load({}))._calls._index is None
