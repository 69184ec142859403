"""Large requests stop when their client is gone."""

import asyncio
import threading
from typing import Any

from tests.service.conftest import World
from tests.service.http.searching import with_search
from viewfinder.query.body import parse_batch
from viewfinder.query.cursor import CursorKeys
from viewfinder.query.searcher import Searcher


async def test_a_batch_whose_client_is_gone_stops_after_its_part(served: World) -> None:
    """Regression: 64 ordered searches went on for 20 s in the embedded store."""
    begun, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    sizes: list[int] = []

    class Gated:
        def __getattr__(self, name: str) -> Any:
            return getattr(served.store.search, name)

        def many(self, collection: Any, searches: Any) -> Any:
            sizes.append(len(searches))
            loop.call_soon_threadsafe(begun.set)
            release.wait(10)
            return served.store.search.many(collection, searches)

    store = with_search(served.store, Gated())
    searcher = Searcher(store, served.service.follower, served.service.images, CursorKeys([b"key"]))
    ordered = {"text": "a cat", "score_threshold": -1, "order_by": "-width"}
    batch = asyncio.create_task(searcher.search_many(parse_batch([ordered] * 64), None))
    await begun.wait()
    batch.cancel()
    await asyncio.gather(batch, return_exceptions=True)
    release.set()
    assert len(await searcher.search_many(parse_batch([ordered] * 3), None)) == 3
    assert sizes[:3] == [1, 1, 1]
    assert len(sizes) <= 5, "one part of the first batch; of the second three, and one for the payloads"
