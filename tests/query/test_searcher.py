"""Rankings of several queries run together."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.errors import FilterError, WordsUnavailableError
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.query.errors import QueryImageError
from viewfinder.query.local import LocalSearch
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.ranking import ranking
from viewfinder.query.searcher import run_rankings
from viewfinder.query.steps import Grouped, HitPage
from viewfinder.query.vectors import gather_or_cancel
from viewfinder.settings import Settings
from viewfinder.store.records import StoredGroup, StoredHit
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.search import Search
from viewfinder.testing.memory_store import open_in_memory


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        ({"filter": {"widht": {"gte": 1}}}, FilterError, "Closest: 'width'"),
        ({"group_by": "widht"}, FilterError, "Closest: 'width'"),
        ({"text": None, "image_url": "nonsense"}, QueryImageError, "image_url: "),
    ],
)
def test_a_wrong_query_is_refused_before_a_model_is_loaded(
    tmp_path: Path, tiny_model: str, request_: dict[str, Any], error: type[Exception], says: str
) -> None:
    def load(checkpoint: object) -> Encoder:
        raise AssertionError("the model is loaded")

    with (
        open_in_memory(tmp_path) as store,
        LocalSearch(store, Settings.load({}), load) as local,
    ):
        store.collections.open("images", ModelIdentity.of(locate(tiny_model)))
        with pytest.raises(error, match=says):
            local.search({"text": "a cat", **request_})


async def test_each_round_of_several_rankings_is_one_request() -> None:
    requests: list[int] = []

    async def search(searches: list[Search]) -> list[list[StoredHit]]:
        requests.append(len(searches))
        return [[StoredHit(f"{each.using}-{each.limit}", 0.5, {})] for each in searches]

    async def group(grouped: object) -> None:
        raise AssertionError("nothing is grouped")

    vector = np.ones(2, np.float32)
    queries = [
        Query((QueryPart("text", "a"),)),
        Query((QueryPart("text", "b"),), target="both"),
        Query((QueryPart("text", "c"),)),
    ]
    pages = await run_rankings([ranking(query, vector, None) for query in queries], search, group)
    # One search for each target of each query; then the cosines of the fused hits for both targets.
    assert requests == [4, 2]
    assert isinstance(pages[0], HitPage)
    assert [each.id for each in pages[0].hits] == ["image-11"]


async def test_a_search_that_the_store_refuses_does_not_refuse_the_others() -> None:
    """One filter that a server in strict mode refuses, or that is too large, failed its whole batch."""

    async def search(searches: list[Search]) -> list[list[StoredHit]]:
        for each in searches:
            if each.limit == 14:
                raise FilterError("no index")
            if each.words == "c":
                raise WordsUnavailableError("no words")
        names = [each.only or [f"{each.using}-{each.limit}"] for each in searches]
        return [[StoredHit(name, 0.5, {}) for name in found] for found in names]

    async def group(grouped: Grouped) -> list[StoredGroup]:
        if grouped.field == "tags":
            raise FilterError("no index of tags")
        return [StoredGroup(grouped.field, await search([grouped.search]) and [StoredHit("grouped", 0.5, {})])]

    vector = np.ones(2, np.float32)
    queries = [
        Query((QueryPart("text", "a"),)),
        Query((QueryPart("text", "b"),), limit=13),  # asks for one more
        Query((QueryPart("text", "c"),), rank="words"),
        Query((QueryPart("text", "d"),), group_by="tags"),
        Query((QueryPart("text", "e"),), group_by="format"),
        Query((QueryPart("text", "f"),), target="both"),
    ]
    rankings = [ranking(query, None if query.rank == "words" else vector, None) for query in queries]
    answers = await run_rankings(rankings, search, group)
    assert [each.hits[0].id if isinstance(each, HitPage) else str(each) for each in answers] == [
        "image-11",
        "no index",
        "no words",
        "no index of tags",
        "grouped",
        "caption-500",
    ]


async def test_after_an_error_the_remaining_work_is_cancelled() -> None:
    never = asyncio.Event()
    cancelled: list[str] = []

    async def wait(name: str) -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("unlucky")

    with pytest.raises(ValueError, match="unlucky"):
        await gather_or_cancel(wait("first"), fail(), wait("second"))
    await asyncio.sleep(0)
    assert cancelled == ["first", "second"]
    gone = asyncio.create_task(gather_or_cancel(wait("third")))
    await asyncio.sleep(0.01)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert cancelled[2:] == ["third"]
