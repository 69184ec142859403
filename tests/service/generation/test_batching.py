"""Batches of requests."""

import asyncio
import threading

import pytest

from viewfinder.service.generation.batching import Batcher


async def test_items_that_arrive_while_the_function_runs_form_the_next_batch() -> None:
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


async def test_an_error_reaches_only_the_requests_of_its_batch() -> None:
    def refusing(items: list[int]) -> list[int]:
        if 13 in items:
            raise ValueError("13 fails")
        return items

    batcher = Batcher(refusing, max_size=1)
    results = await asyncio.gather(batcher(1), batcher(13), batcher(2), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], ValueError)
    assert results[2] == 2
    batcher.close()


async def test_a_request_of_a_disconnected_client_is_not_encoded() -> None:
    seen: list[int] = []
    release = threading.Event()

    def record(items: list[int]) -> list[int]:
        seen.extend(items)
        release.wait(10)
        return items

    batcher = Batcher(record, max_size=8)
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


def test_a_maximum_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="max_size"):
        Batcher(list, max_size=0)


async def test_the_items_of_a_request_of_up_to_one_batch_are_not_split() -> None:
    batches: list[list[int]] = []

    def double(items: list[int]) -> list[int]:
        batches.append(items)
        return [2 * item for item in items]

    batcher = Batcher(double, max_size=4)
    results = await asyncio.gather(batcher.many([1, 2, 3]), batcher.many([4, 5]), batcher(6), batcher.many([]))
    assert results == [[2, 4, 6], [8, 10], 12, []]
    assert batches == [[6, 1, 2, 3], [4, 5]]
    assert batcher.pending == 0
    batcher.close()


async def test_other_requests_have_their_turn_between_the_batches_of_a_large_one() -> None:
    """Regression: 64 images of one request were one batch, for which all others waited."""
    batches: list[list[int]] = []

    def double(items: list[int]) -> list[int]:
        batches.append(items)
        return [2 * item for item in items]

    batcher = Batcher(double, max_size=4)
    large = asyncio.create_task(batcher.many(list(range(10))))
    await asyncio.sleep(0)
    assert batcher.pending == 10
    others = [asyncio.create_task(batcher(number)) for number in (100, 101)]
    assert await large == [2 * item for item in range(10)]
    assert await asyncio.gather(*others) == [200, 202]
    assert all(len(batch) <= 4 for batch in batches)
    assert max(index for index, batch in enumerate(batches) if 100 in batch) < len(batches) - 1
    batcher.close()


async def test_many_large_requests_leave_small_ones_every_second_batch() -> None:
    """Regression: a small request waited for a batch of each large one."""
    batches: list[list[int]] = []

    def record(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    batcher = Batcher(record, max_size=4)
    large = [asyncio.create_task(batcher.many([0] * 40)) for _ in range(10)]
    await asyncio.sleep(0)
    small = [asyncio.create_task(batcher(number)) for number in range(1, 9)]
    assert await asyncio.gather(*small) == list(range(1, 9))
    assert len(batches) <= 8, "every second batch begins with small requests"
    for each in large:
        each.cancel()
    batcher.close()


async def test_a_cancelled_request_stops_after_its_batch() -> None:
    batches: list[list[int]] = []
    release = threading.Event()

    def record(items: list[int]) -> list[int]:
        batches.append(items)
        release.wait(10)
        return items

    batcher = Batcher(record, max_size=4)
    large = asyncio.create_task(batcher.many(list(range(64))))
    while not batches:
        await asyncio.sleep(0.001)
    large.cancel()
    await asyncio.sleep(0)
    assert batcher.pending == 0
    release.set()
    assert await batcher(100) == 100
    assert batches == [[0, 1, 2, 3], [100]]
    batcher.close()


async def test_too_few_results_are_an_error() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: items[1:], max_size=4)
    results = await asyncio.gather(batcher(1), batcher(2), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, RuntimeError]
    batcher.close()


async def test_closing_ends_the_thread_after_all_requests_are_answered() -> None:
    threads: list[threading.Thread] = []
    release = threading.Event()

    def record(items: list[int]) -> list[int]:
        threads.append(threading.current_thread())
        release.wait(10)
        return items

    batcher = Batcher(record, max_size=1)
    running, waiting = asyncio.create_task(batcher(1)), asyncio.create_task(batcher(2))
    while not threads:
        await asyncio.sleep(0.001)
    batcher.close()
    release.set()
    assert await asyncio.gather(running, waiting) == [1, 2]
    assert await batcher(3) == 3
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert not any(thread.is_alive() for thread in threads)
