"""How requests share the model."""

import asyncio
import threading

import pytest

from serve.batching import Batcher


async def test_what_arrives_while_the_function_works_makes_the_next_batch() -> None:
    batches: list[list[int]] = []
    release = threading.Event()

    def double(items: list[int]) -> list[int]:
        batches.append(items)
        if len(batches) == 1:
            release.wait(10)
        return [2 * item for item in items]

    batcher = Batcher(double, max_size=4)
    first = asyncio.create_task(batcher(0))
    while not batches:
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(batcher(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12]
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]
    batcher.close()


async def test_an_error_reaches_every_request_of_its_batch_and_no_other() -> None:
    def picky(items: list[int]) -> list[int]:
        if 13 in items:
            raise ValueError("unlucky")
        return items

    batcher = Batcher(picky, max_size=1)
    results = await asyncio.gather(batcher(1), batcher(13), batcher(2), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], ValueError)
    assert results[2] == 2
    batcher.close()


async def test_a_request_whose_client_has_gone_is_not_encoded() -> None:
    seen: list[int] = []
    release = threading.Event()

    def note(items: list[int]) -> list[int]:
        seen.extend(items)
        release.wait(10)
        return items

    batcher = Batcher(note, max_size=8)
    first = asyncio.create_task(batcher(1))
    while not seen:
        await asyncio.sleep(0.001)
    gone, stays = asyncio.create_task(batcher(2)), asyncio.create_task(batcher(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await first == 1
    assert await stays == 3
    assert seen == [1, 3]
    batcher.close()


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="max_size"):
        Batcher(list, max_size=0)
