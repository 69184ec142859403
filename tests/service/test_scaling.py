"""The autoscaling policy: by texts and images, not by requests."""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from tests.service.conftest import World
from viewfinder.service.scaling import PENDING, scale_by_items


def context(requests: float, *items: float) -> Any:
    metrics = {PENDING: {f"replica {number}": each for number, each in enumerate(items)}}
    return SimpleNamespace(
        total_num_requests=requests,
        aggregated_metrics=metrics if items else None,
        config=AutoscalingConfig(target_ongoing_requests=16),
    )


@pytest.mark.parametrize(
    ("requests", "items", "replicas"),
    [
        (0, [], 0),
        (0, [0, 0], 0),
        (16, [16], 1),
        (16, [], 1),  # the metric has not arrived yet
        (1, [64], 4),  # one request with 64 images
        (4, [64, 64], 8),
        (64, [3, 0], 4),  # searches by id, which encode nothing
    ],
)
def test_replicas_follow_from_the_items_that_wait_or_the_requests(
    requests: float, items: list[float], replicas: float
) -> None:
    assert scale_by_items(context(requests, *items)) == (replicas, {})


def test_serves_controller_needs_no_viewfinder_for_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = AutoscalingPolicy(policy_function=scale_by_items).get_serialized_policy_def()
    assert pickled is not None
    for name in [name for name in sys.modules if name.partition(".")[0] == "viewfinder"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert cloudpickle.loads(pickled)(context(1, 64)) == (4, {})


async def test_the_images_of_a_request_are_pending_until_they_are_encoded(served: World) -> None:
    assert served.service.pending() == 0
    generation = served.service.follower.snapshot()
    work = asyncio.create_task(generation.encode_texts([f"text {number}" for number in range(40)]))
    await asyncio.sleep(0)
    assert served.service.pending() == 40
    await work
    assert served.service.pending() == 0
