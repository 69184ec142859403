"""Rankings of several queries run together."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.errors import FilterError
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.query.errors import QueryImageError
from viewfinder.query.local import LocalSearch
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.ranking import ranking
from viewfinder.query.searcher import run_rankings
from viewfinder.query.vectors import gather_or_cancel
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, open_local
from viewfinder.store.records import StoredHit
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.search import Search


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
        open_local(StoreAddress(data_dir=tmp_path)) as store,
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
    assert [each.id for each in pages[0].hits] == ["image-11"]


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
