"""Metrics of a running job: `viewfinder_job_*`, which Ray's agents export as `ray_viewfinder_job_*`.

The write tasks count them once per block, since every row ends there. Unlike the report, they count a task twice if Ray
runs it twice. If the cluster ends with the job, Prometheus keeps only what it has scraped until then.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.util import metrics

from viewfinder.indexing.accounting import Tally


class JobMetrics:
    """The counters of one index in one process. `kind` is the class of a counter."""

    def __init__(self, index: str, kind: Callable[..., Any] = metrics.Counter) -> None:
        def counter(name: str, description: str, *labels: str) -> Any:
            return kind(name, description, (*labels, "index")).set_default_tags({"index": index})

        self._objects = counter("viewfinder_job_objects_total", "Listed objects by outcome.", "outcome")
        self._skips = counter("viewfinder_job_skipped_total", "Skipped objects by reason.", "reason")
        self._failures = counter("viewfinder_job_failures_total", "Failed objects by reason.", "stage", "reason")
        self._done = counter("viewfinder_job_stage_objects_total", "Objects that a stage has processed.", "stage")
        self._busy = counter("viewfinder_job_stage_seconds_total", "Busy seconds of a stage's workers.", "stage")

    def add_block(self, tally: Tally) -> None:
        """Count one written block."""
        for outcome, count in tally.outcomes.items():
            _add(self._objects, count, outcome=outcome)
        for reason, count in tally.skips.items():
            _add(self._skips, count, reason=reason)
        for stage, count, seconds in (
            ("compare", tally.objects, tally.compare_s),
            ("fetch", tally.images, tally.fetch_s),
            ("decode", tally.images, tally.decode_s),
            ("encode", tally.indexed, tally.encode_s),
            ("write", tally.indexed, tally.write_s),
        ):
            _add(self._done, count, stage=stage)
            _add(self._busy, seconds, stage=stage)
        for (stage, reason), count in tally.failures.items():
            _add(self._failures, count, stage=stage, reason=reason)


@functools.cache
def metrics_of(index: str) -> JobMetrics:
    """The metrics of an index, created once per process because Ray registers a metric only once."""
    return JobMetrics(index)


@contextmanager
def listed_gauge(index: str, listed: int) -> Iterator[None]:
    """Export the number of listed objects during the block, so that a stalled run can be detected."""
    gauge = metrics.Gauge(
        "viewfinder_job_objects_listed", "Objects listed by the current run; 0 when no run is active.", ("index",)
    )
    gauge.set_default_tags({"index": index})
    gauge.set(listed)
    try:
        yield
    finally:
        gauge.set(0)


def _add(counter: Any, value: float, **labels: str) -> None:
    if value > 0:  # Ray rejects an increment of 0
        counter.inc(value, labels)
