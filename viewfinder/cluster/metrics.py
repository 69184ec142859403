"""What a job counts while it runs: `viewfinder_job_*`, which Ray's agents export as `ray_viewfinder_job_*`.

Counted where every row ends, in the write tasks, once per block; approximate where Ray runs a task twice, unlike the
report. A cluster that is shut down after the job takes the numbers along: Prometheus has what it scraped until then.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.util import metrics

if TYPE_CHECKING:
    from viewfinder.cluster.datasink import Tally


class JobMetrics:
    """The counters of one index in one process, each of `kind`."""

    def __init__(self, index: str, kind: Callable[..., Any] = metrics.Counter) -> None:
        def counter(name: str, description: str, *labels: str) -> Any:
            return kind(name, description, (*labels, "index")).set_default_tags({"index": index})

        self._objects = counter("viewfinder_job_objects_total", "Listed objects by what became of them.", "outcome")
        self._failures = counter("viewfinder_job_failures_total", "Failed objects by reason.", "stage", "reason")
        self._done = counter("viewfinder_job_stage_objects_total", "Objects that a stage has worked on.", "stage")
        self._busy = counter("viewfinder_job_stage_seconds_total", "Busy seconds of a stage's workers.", "stage")

    def block(self, tally: "Tally", table: pa.Table) -> None:
        """Count one written block: its `tally`, and its failures as the rows of `viewfinder.indexing.rows` tell them."""
        left_alone = tally.unchanged - tally.withheld
        outcomes = {"indexed": tally.indexed, "unchanged": left_alone, "failed": tally.failed}
        for outcome, count in (outcomes | {"withheld": tally.withheld}).items():
            _add(self._objects, count, outcome=outcome)
        for stage, count, seconds in (
            ("compare", tally.indexed + tally.unchanged + tally.failed, tally.compare_s),
            ("fetch", tally.pictures, tally.fetch_s),
            ("decode", tally.pictures, tally.decode_s),
            ("encode", tally.indexed, tally.encode_s),
            ("write", tally.indexed, tally.write_s),
        ):
            _add(self._done, count, stage=stage)
            _add(self._busy, seconds, stage=stage)
        if not tally.failed:
            return  # an empty block has no columns either
        rows = zip(*(table[name].to_pylist() for name in ("action", "stage", "reason")), strict=True)
        failures = Counter((stage, reason) for action, stage, reason in rows if action == "failed")
        for (stage, reason), count in failures.items():
            _add(self._failures, count, stage=stage, reason=reason)


# A process makes each metric once: write tasks are many, and a worker keeps what it has registered.
of = functools.cache(JobMetrics)


@contextmanager
def under_way(index: str, listed: int) -> Iterator[None]:
    """Tell, while the block runs, of how many objects a pass is made: what stands still can then be seen."""
    gauge = metrics.Gauge("viewfinder_job_objects_listed", "Objects of the pass under way, 0 after it.", ("index",))
    gauge.set_default_tags({"index": index})
    gauge.set(listed)
    try:
        yield
    finally:
        gauge.set(0)


def _add(counter: Any, value: float, **labels: str) -> None:
    if value > 0:  # Ray refuses to add nothing
        counter.inc(value, labels)
