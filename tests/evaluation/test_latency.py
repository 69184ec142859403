"""Search times of collections that are measured beside each other."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from viewfinder.evaluation.latency import search_times_ms


def test_collections_take_turns_in_both_orders() -> None:
    asked: list[str] = []
    search = SimpleNamespace(nearest=lambda collection, *_, **__: asked.append(collection))
    store: Any = SimpleNamespace(search=search)
    names: Any = ["new", "live"]
    times = search_times_ms(store, names, [np.ones((1, 2), np.float32)] * 2, count=4)
    assert [len(each) for each in times] == [4, 4]
    pairs = [tuple(asked[start : start + 2]) for start in range(0, len(asked), 2)]
    assert pairs.count(("new", "live")) == pairs.count(("live", "new")) == len(pairs) / 2
