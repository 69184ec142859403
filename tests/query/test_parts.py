"""Large batches go to the store in parts, between which a request can be cancelled."""

import numpy as np
import pytest

from viewfinder.query.searcher import parts_of
from viewfinder.store import Search


def searches(count: int, limit: int) -> list[Search]:
    return [Search(vector=np.ones(2, np.float32), limit=limit) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "limit", "sizes"),
    [(0, 10, []), (1, 10_000, [1]), (3, 1_001, [1, 1, 1]), (5, 1_000, [2, 2, 1]), (40, 31, [16, 16, 8])],
)
def test_a_part_has_up_to_16_searches_and_2000_hits(count: int, limit: int, sizes: list[int]) -> None:
    given = searches(count, limit)
    parts = list(parts_of(given))
    assert [len(part) for part in parts] == sizes
    assert [each for part in parts for each in part] == given
