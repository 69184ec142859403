"""Metrics in Prometheus' text format."""

import asyncio
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from viewfinder.service.telemetry import access_log
from viewfinder.service.telemetry.metrics import CachedText, Metrics, merged

AGENT = """# HELP ray_tasks Current number of tasks.
# TYPE ray_tasks gauge
ray_tasks{Component="raylet",State="RUNNING"} 3.0
# HELP ray_viewfinder_errors_total Error responses, by code.
# TYPE ray_viewfinder_errors_total counter
ray_viewfinder_errors_total{Component="core_worker",NodeAddress="10.0.0.%d",SessionName="s",Version="2.60.0",\
WorkerId="w",code="not_found",otel_scope_name="ray",otel_scope_schema_url="",otel_scope_version=""} 3.0
# HELP ray_other_total Another program's metric that mentions viewfinder_errors_total.
# TYPE ray_other_total counter
ray_other_total{code="viewfinder"} 9.0
# HELP ray_viewfinder_request_seconds Time to answer.
# TYPE ray_viewfinder_request_seconds histogram
ray_viewfinder_request_seconds_bucket{Component="core_worker",le="0.1",route="/v1/images/{id}"} 2.0
ray_viewfinder_request_seconds_bucket{Component="core_worker",le="+Inf",route="/v1/images/{id}"} 2.0
ray_viewfinder_request_seconds_count{Component="core_worker",route="/v1/images/{id}"} 2.0
ray_viewfinder_request_seconds_sum{Component="core_worker",route="/v1/images/{id}"} 0.02
"""


def test_the_exports_of_all_nodes_are_merged_into_our_metrics() -> None:
    text = merged([AGENT % 1, "", AGENT % 2])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {"viewfinder_errors", "viewfinder_request_seconds"}
    errors = families["viewfinder_errors"]
    assert (errors.type, errors.documentation) == ("counter", "Error responses, by code.")
    assert [(sample.labels, sample.value) for sample in errors.samples] == [
        ({"NodeAddress": f"10.0.0.{node}", "WorkerId": "w", "code": "not_found"}, 3.0) for node in (1, 2)
    ]
    assert len(families["viewfinder_request_seconds"].samples) == 8
    assert text.count("# TYPE viewfinder_errors_total") == 1


async def test_metrics_of_a_process_add_up() -> None:
    metrics = Metrics()
    with metrics.timed("decode"):
        pass
    metrics.observe("decode", 2.0)
    metrics.batch("text", 3)
    metrics.batch("text", 5)
    for hit in (True, False, True):
        metrics.cache(hits=int(hit), misses=int(not hit))
    metrics.queue(7)
    text = metrics.text()
    for line in (
        'viewfinder_stage_seconds_count{stage="decode"} 2.0',
        'viewfinder_encoded_total{kind="text"} 8.0',
        'viewfinder_batch_size_count{kind="text"} 2.0',
        'viewfinder_batch_size_bucket{kind="text",le="4.0"} 1.0',
        'viewfinder_text_cache_total{result="hit"} 2.0',
        'viewfinder_text_cache_total{result="miss"} 1.0',
        "viewfinder_queue_depth 7.0",
    ):
        assert line in text


async def test_simultaneous_requests_read_the_metrics_once_and_not_in_the_event_loop() -> None:
    """Regression: each parsed the export of every node in the loop."""
    threads: list[threading.Thread] = []

    def make() -> str:
        threads.append(threading.current_thread())
        return f"text {len(threads)}"

    text = CachedText(make)
    assert await asyncio.gather(*(text() for _ in range(10))) == ["text 1"] * 10
    assert await text() == "text 1"
    assert threads[0] is not threading.current_thread()


async def test_metrics_are_read_again_when_they_are_old_or_could_not_be_read() -> None:
    answers = iter(["first", RuntimeError("no agent"), "second"])

    def make() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    text = CachedText(make, max_age_s=0)
    assert await text() == "first"
    with pytest.raises(RuntimeError):
        await text()
    assert await text() == "second"


def test_a_batch_over_several_indexes_counts_for_each_of_them() -> None:
    """Regression: it counted for the last one alone."""
    record = access_log.RequestRecord("id", "POST", path="/v1/search/batch", status=200)
    token = access_log.current.set(record)
    for name in ("a", "b", "a"):
        access_log.record_index(name)
    access_log.current.reset(token)
    metrics = Metrics()
    metrics.request(record)
    counts = [line for line in metrics.text().splitlines() if line.startswith("viewfinder_request_seconds_count")]
    assert record.index == "a,b"
    assert [line.endswith(" 1.0") for line in counts] == [True, True]
    assert [name for name in ("a", "b") if any(f'index="{name}"' in line for line in counts)] == ["a", "b"]
