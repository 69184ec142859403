"""Arguments of the stages on Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.data import DataContext

from viewfinder.cluster import executor
from viewfinder.indexing.compare import Compare
from viewfinder.sources.access import ObjectAccess
from viewfinder.store import StoreAddress

pytestmark = pytest.mark.slow  # imports ray


def test_rows_that_stream_from_the_comparison_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray makes a lost block again by its number, when the index has points of this run."""
    asked: list[Compare] = []
    dataset = SimpleNamespace(context=DataContext())

    def compare_on_workers(_: object, compare: Compare) -> Any:
        asked.append(compare)
        return dataset

    monkeypatch.setattr(executor, "compare_on_workers", compare_on_workers)
    compare = Compare(ObjectAccess(), StoreAddress(Path(), url="http://qdrant:6333"), None)
    executor._rows_of(cast(Any, SimpleNamespace(manifest=None, compare=compare)), None)
    assert [each.in_place for each in asked] == [True]
    assert dataset.context.target_max_block_size is None, "blocks end where their bytes do"


def test_only_nodes_that_decode_can_confirm_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a head without CPUs and one worker no second machine could ever confirm it."""
    head, worker, lost = {"object_store_memory": 1.0}, {"CPU": 8.0}, {"CPU": 8.0}
    nodes = [
        {"Alive": alive, "Resources": resources} for alive, resources in ((True, head), (True, worker), (False, lost))
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert executor._machines_that_decode() == 1
