"""The alias moves back and forth under a crowd: no request fails, and no answer mixes two collections."""

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn

from serve.api import build_api
from tests.serve.conftest import INDEX, World

CLIENTS = 16
SWAPS = 10
ANSWERS_BETWEEN = 64
TIMEOUT_S = 120
TEXTS = ("a cat on a mat", "a dog in the snow", "a red car", "two birds", "a boat at sea")


@dataclass
class Crowd:
    """Clients that ask without a pause, and what they were told."""

    url: str
    answers: list[tuple[str, int, Any]] = field(default_factory=list)
    answered: threading.Condition = field(default_factory=threading.Condition)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            for turn in itertools.count(number):
                if self.over.is_set():
                    return
                text = TEXTS[turn % len(TEXTS)]
                # A text of its own now and then, which no cache has an answer for.
                asked = text if turn % 3 else f"{text} {number} {turn}"
                answer = client.get("/v1/search", params={"q": asked, "target": "caption", "limit": 5})
                with self.answered:
                    self.answers.append((asked, answer.status_code, answer.json()))
                    self.answered.notify_all()

    def wait_for(self, collection: str, count: int) -> None:
        """Until so many more answers name the collection."""
        with self.answered:
            start = len(self.answers)
            assert self.answered.wait_for(
                lambda: sum(body.get("collection") == collection for *_, body in self.answers[start:]) >= count,
                TIMEOUT_S,
            ), f"{count} answers from {collection}"


@contextmanager
def crowd(world: World) -> Iterator[Crowd]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        config = uvicorn.Config(build_api(world.service), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        made = Crowd(f"http://127.0.0.1:{listener.getsockname()[1]}")
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        clients = [threading.Thread(target=made.ask, args=(number,)) for number in range(CLIENTS)]
        for thread in (serving, *clients):
            thread.start()
        try:
            yield made
        finally:
            made.over.set()
            for thread in clients:
                thread.join()
            server.should_exit = True
            serving.join()


@pytest.mark.chaos("Service", "the model changes ten times under load")
def test_ten_swaps_under_sixteen_clients_cost_no_request_and_mix_no_answer(world: World) -> None:
    collections = {
        model: world.build(model, tuple(f"{model}: {text}" for text in TEXTS), promote=model == "first")
        for model in ("first", "second")
    }
    models = {each.name: world.checkpoints[model].name for model, each in collections.items()}
    marks = {each.name: model for model, each in collections.items()}
    world.service.follower.refresh()
    with crowd(world) as asking:
        for number in range(SWAPS):
            to = collections["second" if number % 2 == 0 else "first"]
            world.store.promote(INDEX, to.name)
            world.service.follower.refresh()
            asking.wait_for(to.name, ANSWERS_BETWEEN)

    assert len(asking.answers) >= SWAPS * ANSWERS_BETWEEN
    assert [(text, body) for text, status, body in asking.answers if status != 200] == []
    assert {body["collection"] for *_, body in asking.answers} == set(models)
    for _, _, body in asking.answers:
        assert body["model"] == models[body["collection"]]
        assert len(body["hits"]) == 5
        assert all(hit["caption"].startswith(f"{marks[body['collection']]}: ") for hit in body["hits"])
