"""Limits on the addresses that are fetched, and kept in memory, at the same time."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.query.fetching import Names, answer, fetcher, replying, serving
from tests.query.test_images import PREPROCESS, made
from viewfinder.errors import ImageError
from viewfinder.query.fetcher import MAX_FETCHES, MAX_FETCHES_PER_HOST, Fetcher

pytestmark = pytest.mark.slow

HOSTS = [f"host{number}.test" for number in range(MAX_FETCHES + 4)]


def fetching(port: int) -> Fetcher:
    return fetcher(port, resolve=Names(**{host.replace(".", "_"): ["127.0.0.1"] for host in HOSTS}))


class Gate:
    """Answers requests once it is open."""

    def __init__(self) -> None:
        self.requests = 0
        self.open = asyncio.Event()

    async def __call__(self, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        await self.open.wait()
        writer.write(answer(b"content"))


async def until(wanted: Any) -> None:
    async with asyncio.timeout(10):
        while not wanted():
            await asyncio.sleep(0.01)


async def test_a_content_keeps_its_turn_as_long_as_it_is_used() -> None:
    """Regression: a fetch ended its turn at once, so hundreds of contents of 20 MB waited for a decoder."""
    async with serving(replying(answer(b"content"))) as port:
        with_turns = fetching(port)
        async with AsyncExitStack() as used:
            for host in HOSTS[: MAX_FETCHES - 1]:
                await used.enter_async_context(with_turns.fetched(f"http://{host}:{port}/"))
            async with with_turns.fetched(f"http://{HOSTS[-1]}:{port}/") as last:
                late = asyncio.create_task(with_turns.fetch(f"http://{HOSTS[-2]}:{port}/"))
                await asyncio.sleep(0.1)
                assert not late.done()
            assert await late == last == b"content"
        with_turns.close()


async def test_one_host_gets_some_requests_at_a_time_and_leaves_turns_to_others() -> None:
    gate = Gate()
    async with serving(gate) as slow, serving(replying(answer(b"content"))) as fast:
        with_turns = fetcher(ports={slow, fast}, resolve=Names(slow_test=["127.0.0.1"], fast_test=["127.0.0.1"]))
        waiting = [asyncio.create_task(with_turns.fetch(f"http://slow.test:{slow}/{n}")) for n in range(40)]
        await until(lambda: gate.requests >= MAX_FETCHES_PER_HOST)
        assert await with_turns.fetch(f"http://fast.test:{fast}/") == b"content"
        assert gate.requests == MAX_FETCHES_PER_HOST
        gate.open.set()
        assert await asyncio.gather(*waiting) == [b"content"] * 40
        with_turns.close()


async def test_the_host_of_a_redirect_has_its_own_limit() -> None:
    gate = Gate()
    async with serving(gate) as port:
        location = f"Location: http://{HOSTS[0]}:{port}/"
        async with serving(replying(answer(b"", "302 Found", location))) as first:
            names = Names(**{host.replace(".", "_"): ["127.0.0.1"] for host in HOSTS})
            with_turns = fetcher(ports={port, first}, resolve=names)
            waiting = [asyncio.create_task(with_turns.fetch(f"http://{host}:{first}/")) for host in HOSTS[1:]]
            await until(lambda: gate.requests >= MAX_FETCHES_PER_HOST)
            await asyncio.sleep(0.1)
            assert gate.requests == MAX_FETCHES_PER_HOST
            gate.open.set()
            assert await asyncio.gather(*waiting) == [b"content"] * len(waiting)
            with_turns.close()


async def test_waiting_for_a_turn_does_not_count_towards_the_time_limit() -> None:
    gate = Gate()
    async with serving(gate) as port:
        with_turns = fetcher(port, timeout_s=0.4)
        async with AsyncExitStack() as used:
            gate.open.set()
            for _ in range(MAX_FETCHES_PER_HOST):
                await used.enter_async_context(with_turns.fetched(f"http://images.test:{port}/"))
            late = asyncio.create_task(with_turns.fetch(f"http://images.test:{port}/"))
            await asyncio.sleep(0.6)
        assert await late == b"content"
        with_turns.close()


async def test_the_turn_of_an_image_ends_after_it_is_decoded() -> None:
    order: list[str] = []

    class Noting(Fetcher):
        def check(self, url: str) -> None:
            pass

        def fetched(self, url: str) -> Any:
            stack = AsyncExitStack()
            stack.callback(order.append, "turn ended")

            class Turn:
                async def __aenter__(self) -> bytes:
                    return b"not an image"

                async def __aexit__(self, *error: object) -> None:
                    await stack.aclose()

            return Turn()

    images = made(allow_url=True, fetcher=Noting(max_bytes=1000))
    decode = images.pixels

    async def noted(data: Any, preprocess: Any) -> Any:
        try:
            return await decode(data, preprocess)
        finally:
            order.append("decoded")

    images.pixels = noted  # type: ignore[method-assign]
    with pytest.raises(ImageError):
        await images.pixels_at("https://example.com/cat.jpg", PREPROCESS)
    assert order == ["decoded", "turn ended"]
    images.close()
