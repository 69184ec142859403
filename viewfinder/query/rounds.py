"""Runs the rankings of one request side by side, a round at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from viewfinder.query.ranking import Asks, Grouped, Page, Ranking
from viewfinder.store import Hit
from viewfinder.store.search import Search

T = TypeVar("T")


async def run(
    rankings: Sequence[Ranking],
    search: Callable[[list[Search]], Awaitable[list[list[Hit]]]],
    group: Callable[[Grouped], Awaitable[Any]],
) -> list[Page]:
    """The page of each ranking. What all of them ask in one round goes into one `search`; groups go one by one."""
    pages: dict[int, Page] = {}
    asked: dict[int, Asks] = {number: next(each) for number, each in enumerate(rankings)}
    while asked:
        following: dict[int, Asks] = {}
        for number, answer in (await _answers(asked, search, group)).items():
            try:
                following[number] = rankings[number].send(answer)
            except StopIteration as done:
                pages[number] = done.value
        asked = following
    return [pages[number] for number in range(len(rankings))]


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """All results; the first error, and then nothing of the rest is left waiting in a queue."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _answers(
    asked: dict[int, Asks],
    search: Callable[[list[Search]], Awaitable[list[list[Hit]]]],
    group: Callable[[Grouped], Awaitable[Any]],
) -> dict[int, Any]:
    single = {number: asks for number, asks in asked.items() if not isinstance(asks, Grouped)}
    grouped = {number: asks for number, asks in asked.items() if isinstance(asks, Grouped)}

    async def search_all() -> list[list[Hit]]:
        searches = [each for asks in single.values() for each in asks]
        return await search(searches) if searches else []

    async def group_one(asks: Grouped) -> Any:
        return await group(asks)

    found, *groups = await together(search_all(), *map(group_one, grouped.values()))
    lists = iter(found)
    answers: dict[int, Any] = {number: [next(lists) for _ in asks] for number, asks in single.items()}
    return answers | dict(zip(grouped, groups, strict=True))
