"""Metrics of a job. tests/infra/test_two_nodes.py tests that Ray exports them."""

from collections import Counter, defaultdict
from typing import Any, Self

from viewfinder.cluster.metrics import JobMetrics
from viewfinder.indexing.accounting import Tally


class Ledger:
    """Makes metrics that record their increments, and reject what Ray's metrics reject."""

    def __init__(self) -> None:
        self.entries: defaultdict[tuple[Any, ...], float] = defaultdict(float)

    def __call__(self, name: str, description: str, labels: tuple[str, ...]) -> "Metric":
        return Metric(self.entries, name, labels)


class Metric:
    def __init__(self, entries: defaultdict[tuple[Any, ...], float], name: str, labels: tuple[str, ...]) -> None:
        self._entries, self._name, self._labels = entries, name, labels
        self._defaults: dict[str, str] = {}

    def set_default_tags(self, tags: dict[str, str]) -> Self:
        self._defaults = tags
        return self

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        given = self._defaults | tags
        assert set(given) == set(self._labels)
        self._entries[(self._name, *(given[label] for label in self._labels))] += value


def test_a_block_is_counted_by_outcome_and_stage() -> None:
    ledger = Ledger()
    tally = Tally(indexed=5, unchanged=7, taken_down=2, failed=3, images=4, compare_s=0.5, decode_s=2.0, encode_s=1.0)
    tally.failures = Counter({("decode", "truncated"): 2, ("fetch", "access_denied"): 1})
    metrics = JobMetrics("photos", ledger)
    metrics.add_block(tally)
    metrics.add_block(Tally(indexed=1, images=1))
    metrics.add_block(Tally())
    objects, done = "viewfinder_job_objects_total", "viewfinder_job_stage_objects_total"
    seconds, failures = "viewfinder_job_stage_seconds_total", "viewfinder_job_failures_total"
    skips = "viewfinder_job_skipped_total"
    assert ledger.entries == {
        (objects, "indexed", "photos"): 6,
        (objects, "unchanged", "photos"): 7,
        (objects, "skipped", "photos"): 2,
        (skips, "taken_down", "photos"): 2,
        (objects, "failed", "photos"): 3,
        (failures, "decode", "truncated", "photos"): 2,
        (failures, "fetch", "access_denied", "photos"): 1,
        (done, "compare", "photos"): 18,
        (done, "fetch", "photos"): 5,
        (done, "decode", "photos"): 5,
        (done, "encode", "photos"): 6,
        (done, "write", "photos"): 6,
        (seconds, "compare", "photos"): 0.5,
        (seconds, "decode", "photos"): 2.0,
        (seconds, "encode", "photos"): 1.0,
    }
