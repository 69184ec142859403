"""Searches over HTTP and their expected scores."""

import base64
import copy
import io
from collections import Counter
from typing import Any

from PIL import Image

from tests.service.conftest import World
from viewfinder.sources.uris import point_id
from viewfinder.store import Store
from viewfinder.store.search import Searches

Body = dict[str, Any]


def image(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 40), colour).save(file, "PNG")
    return file.getvalue()


def as_base64(colour: str = "red") -> str:
    return base64.b64encode(image(colour)).decode()


def an_id(number: int) -> str:
    return point_id(f"s3://bucket/{number}.jpg")


def search(world: World, **body: Any) -> Body:
    answer = world.client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def ids(answer: Body) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


class Counted:
    """A store's searches, counted by method."""

    def __init__(self, search: Searches) -> None:
        self._search = search
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._search, name)


def with_search(store: Store, search: Any) -> Store:
    """The same store with its searches replaced."""
    twin = copy.copy(store)
    twin.search = search
    return twin
