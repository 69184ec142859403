"""Answers that are kept for some seconds."""

import asyncio

import pytest

from viewfinder.service import recent
from viewfinder.service.recent import RecentAnswers


class Store:
    """Counts what it is asked; fails while `broken`."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False

    async def count(self) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("down")
        return self.asked


async def test_an_answer_is_kept_until_its_time_is_over() -> None:
    now, store = [100.0], Store()
    answers = RecentAnswers(3, lambda: now[0])
    assert [await answers.get("a", store.count), await answers.get("a", store.count)] == [1, 1]
    assert await answers.get("b", store.count) == 2
    now[0] += 3
    assert await answers.get("a", store.count) == 3


async def test_equal_questions_at_once_are_asked_once_and_a_client_that_leaves_takes_nothing() -> None:
    store = Store()
    answers = RecentAnswers(3)
    tasks = [asyncio.create_task(answers.get("a", store.count)) for _ in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [1] * 19


async def test_errors_are_not_kept() -> None:
    store = Store()
    answers = RecentAnswers(3)
    store.broken = True
    with pytest.raises(OSError, match="down"):
        await answers.get("a", store.count)
    store.broken = False
    assert await answers.get("a", store.count) == 2


async def test_the_number_of_answers_is_limited() -> None:
    store = Store()
    answers = RecentAnswers(3)
    for number in range(recent._MAX_ANSWERS + 1):
        await answers.get(number, store.count)
    await answers.get(recent._MAX_ANSWERS, store.count)
    assert store.asked == recent._MAX_ANSWERS + 1
    await answers.get(0, store.count)
    assert store.asked == recent._MAX_ANSWERS + 2
