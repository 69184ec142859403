"""`search_many`: order, concurrency, errors and an early end."""

import asyncio
import contextlib
import itertools
import threading
from typing import Any

import pytest

from tests.client.conftest import Ask, Planned, Scripted, found, refusal
from viewfinder import AsyncClient, Client
from viewfinder.client import SearchResult
from viewfinder.errors import ServiceError

pytestmark = pytest.mark.slow


def test_texts_are_searched_concurrently_and_returned_in_order(ask: Ask) -> None:
    others = threading.Barrier(3)

    def answer(body: dict[str, Any]) -> Planned:
        others.wait(timeout=20)  # no answer before three requests have arrived
        return found(body["text"])

    script = Scripted(answer)
    texts = ["a", "b", "c", "d", "e", "f"]
    with script.listening() as server:
        results = ask(server, "search_many", texts, concurrency=3, limit=7)
    assert [result.hits[0].caption for result in results] == texts
    assert {body["limit"] for body in script.bodies} == {7}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_error_is_raised_at_the_position_of_its_text(concurrency: int) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        return refusal(500) if body["text"] == "2" else found(body["text"])

    got: list[SearchResult] = []
    with Scripted(answer).listening() as server, Client(server) as client, pytest.raises(ServiceError, match="Not now"):
        got.extend(client.search_many(map(str, range(6)), concurrency=concurrency))
    # `extend` keeps the results before the error.
    assert [result.hits[0].caption for result in got] == ["0", "1"]


def test_endless_texts_are_consumed_only_as_needed() -> None:
    taken = itertools.count()
    with Scripted(lambda body: found(body["text"])).listening() as server, Client(server) as client:
        results = client.search_many((str(next(taken)) for _ in itertools.repeat(None)), concurrency=4)
        captions = [result.hits[0].caption for result in itertools.islice(results, 10)]
        results.close()
    assert captions == [str(number) for number in range(10)]
    assert next(taken) <= 14


async def test_leaving_an_asynchronous_search_early_cancels_the_rest() -> None:
    hold = threading.Event()

    def answer(body: dict[str, Any]) -> Planned:
        if body["text"] != "0":
            hold.wait(timeout=20)
        return found(body["text"])

    with Scripted(answer).listening() as server:
        async with AsyncClient(server) as client:
            async with contextlib.aclosing(client.search_many(map(str, range(100)), concurrency=3)) as results:
                assert (await anext(results)).hits[0].caption == "0"
            assert asyncio.all_tasks() == {asyncio.current_task()}
        hold.set()
