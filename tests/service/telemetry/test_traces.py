"""Traces: one request is one tree, requests do not mix, and without the setting nothing of OpenTelemetry is loaded."""

import asyncio
import base64
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.indexing.sample_images import encoded_image
from tests.service.conftest import World
from viewfinder import tracing
from viewfinder.errors import ObjectError, StoreError
from viewfinder.service.app import start_traces
from viewfinder.service.generation.batching import Batcher
from viewfinder.sources.objects import Objects
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient
from viewfinder.testing.objects import MemoryObjects

pytestmark = pytest.mark.slow

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans of a process with traces on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start(provider)
    yield exporter
    tracing.stop()


@pytest.fixture
def world(shared: World) -> World:
    return shared


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [each for each in spans.get_finished_spans() if each.name == name]


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def check_tree(spans: Sequence[ReadableSpan]) -> ReadableSpan:
    """Check that the spans are one tree, whose children lie within their parents; return its root."""
    by_id = {each.context.span_id: each for each in spans if each.context is not None}
    roots = [each for each in spans if each.parent is None or each.parent.span_id not in by_id]
    (root,) = roots
    for each in spans:
        if each is not root:
            assert each.parent is not None
            above = by_id[each.parent.span_id]
            assert (above.start_time or 0) <= (each.start_time or 0) <= (each.end_time or 0) <= (above.end_time or 0)
    return root


# -- One request ------------------------------------------------------------------------------------------------------


def test_a_search_is_one_tree_from_http_to_the_store(world: World, spans: InMemorySpanExporter) -> None:
    answer = world.client.post("/v1/search", json={"text": "a text that no other test has"})
    assert answer.status_code == 200
    found = spans.get_finished_spans()
    assert len({trace_of(each) for each in found}) == 1
    root = check_tree(found)
    assert (root.name, root.kind) == ("POST /v1/search", SpanKind.SERVER)
    assert dict(root.attributes or {}) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/v1/search",
        "url.path": "/v1/search",
        "http.response.status_code": 200,
    }
    assert root.status.status_code is StatusCode.UNSET
    (waited,) = named(spans, "wait for batch")
    (encoded,) = [each for each in named(spans, "encode") if "viewfinder.batch.size" in (each.attributes or {})]
    assert waited.end_time == encoded.start_time
    assert dict(encoded.attributes or {}) == {
        "viewfinder.model": answer.json()["model"],
        "viewfinder.kind": "text",
        "viewfinder.batch.size": 1,
        "viewfinder.batch.requests": 1,
        "viewfinder.batch.own_items": 1,
    }
    stores = [each for each in found if each.kind is SpanKind.CLIENT]
    assert stores
    for each in stores:
        assert (each.attributes or {})["db.system.name"] == "qdrant"
        assert (each.attributes or {})["db.collection.name"] == answer.json()["collection"]
        assert each.name == f"{(each.attributes or {})['db.operation.name']} {answer.json()['collection']}"


def test_a_trace_is_continued_and_named_in_the_answer_and_in_the_log(
    world: World, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "viewfinder.access"):
        answer = world.client.get("/v1/search?q=a+dog", headers={"traceparent": TRACEPARENT})
    root = check_tree(spans.get_finished_spans())
    assert root.parent is not None
    assert (trace_of(root), f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert root.context is not None
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{root.context.span_id:016x}-01"
    (line,) = [json.loads(each.message) for each in caplog.records if each.name == "viewfinder.access"]
    assert line["trace_id"] == TRACE


@pytest.mark.parametrize("given", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01"])
def test_an_invalid_traceparent_begins_a_trace(world: World, spans: InMemorySpanExporter, given: str) -> None:
    assert world.client.get("/healthz", headers={"traceparent": given}).status_code == 200
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert trace_of(span) != TRACE


def test_a_client_can_say_that_its_trace_is_not_recorded(world: World, spans: InMemorySpanExporter) -> None:
    answer = world.client.get("/v1/search?q=a+cat", headers={"traceparent": TRACEPARENT.replace("-01", "-00")})
    assert answer.status_code == 200
    assert spans.get_finished_spans() == ()
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")


def test_spans_hold_no_text_and_no_key(world: World, spans: InMemorySpanExporter) -> None:
    headers = {"x-api-key": "zebra-key", "baggage": "who=zebra", "tracestate": "vendor=1"}
    image = base64.b64encode(encoded_image(1)).decode()
    for body in (
        {"text": "a zebra"},
        {"text": "a zebra", "rank": "words", "filter": {"caption": {"text": "zebra"}}},
        {"queries": [{"text": "a zebra"}, {"image": image}]},
        {"text": "a zebra", "zebra": 1},
    ):
        world.client.post("/v1/search", json=body, headers=headers)
    world.client.get("/v1/search?q=zebra&filter=zebra", headers=headers)
    world.client.get("/zebra", headers=headers)
    found = spans.get_finished_spans()
    assert len(found) > 10
    assert not [each.to_json() for each in found if "zebra" in each.to_json()]
    assert not [each for each in found if each.events]


# -- Several requests -------------------------------------------------------------------------------------------------


def test_simultaneous_requests_do_not_mix(world: World, spans: InMemorySpanExporter) -> None:
    traces = [f"{number:032x}" for number in range(1, 13)]

    def search(trace: str) -> int:
        headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
        return world.client.post("/v1/search", json={"text": f"number {trace}"}, headers=headers).status_code

    with ThreadPoolExecutor(len(traces)) as pool:
        assert set(pool.map(search, traces)) == {200}
    found = spans.get_finished_spans()
    for trace in traces:
        mine = [each for each in found if trace_of(each) == trace]
        assert check_tree(mine).name == "POST /v1/search"
        assert [each.name for each in mine].count("wait for batch") == 1
    others = [each for each in found if trace_of(each) not in traces]
    assert {each.name for each in others} <= {"encode batch"}


async def test_a_batch_of_several_requests_links_to_each_of_them(spans: InMemorySpanExporter) -> None:
    traces = tracing.active
    assert traces is not None
    running, release = threading.Event(), threading.Event()

    def encode(items: list[int]) -> list[int]:
        running.set()
        release.wait(10)
        return items

    batcher = Batcher(encode, max_size=8, labels=lambda: {"viewfinder.model": "m"})

    async def request(name: str, items: list[int]) -> None:
        with traces.span(name, "SERVER"):
            await batcher.many(items)

    first = asyncio.create_task(request("first", [0]))
    await asyncio.to_thread(running.wait, 10)
    others = [asyncio.create_task(request(name, [1, 2])) for name in ("second", "third")]
    untraced = asyncio.create_task(batcher.many([3]))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(first, *others, untraced)
    batcher.close()

    (batch,) = named(spans, "encode batch")
    encodes = {trace_of(each): each for each in named(spans, "encode")}
    roots = {name: trace_of(named(spans, name)[0]) for name in ("first", "second", "third")}
    assert batch.parent is None
    assert trace_of(batch) not in roots.values()
    assert {f"{each.context.trace_id:032x}" for each in batch.links} == {roots["second"], roots["third"]}
    assert dict(batch.attributes or {}) == {
        "viewfinder.model": "m",
        "viewfinder.batch.size": 4,
        "viewfinder.batch.requests": 2,
    }
    for name in ("second", "third"):
        span = encodes[roots[name]]
        assert [each.context for each in span.links] == [batch.context]
        assert (span.attributes or {})["viewfinder.batch.own_items"] == 2
    assert encodes[roots["first"]].links == ()


# -- Errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_of_the_encoder_is_an_error_of_its_spans(spans: InMemorySpanExporter) -> None:
    traces = tracing.active
    assert traces is not None

    def refusing(items: list[int]) -> list[int]:
        raise ValueError("13 fails")

    batcher = Batcher(refusing, max_size=8)
    with pytest.raises(ValueError, match="13"), traces.span("request", "SERVER"):
        await batcher.many([13])
    batcher.close()
    for name in ("encode", "request"):
        (span,) = named(spans, name)
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "ValueError"
        assert "13" not in span.to_json().replace(str(span.start_time), "").partition('"attributes"')[2][:80]
    assert named(spans, "wait for batch")[0].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("path", "status", "expected"), [("/v1/search", 200, StatusCode.UNSET), ("/v1/serch", 404, StatusCode.UNSET)]
)
def test_refusals_are_no_errors_of_the_service(
    world: World, spans: InMemorySpanExporter, path: str, status: int, expected: StatusCode
) -> None:
    assert world.client.get(path, params={"q": "a cat"}).status_code == status
    root = check_tree(spans.get_finished_spans())
    assert root.status.status_code is expected
    assert (root.attributes or {})["http.response.status_code"] == status


def test_a_failure_of_the_service_is_an_error(
    served: World, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        max_batch = None

        def call(self, method: str, **arguments: Any) -> Any:
            raise StoreError("broken")

        def close(self) -> None:
            pass

    working = served.store.connection.client
    served.store.connection.client = Failing()
    try:
        assert served.client.post("/v1/search", json={"text": "a cat"}).status_code == 500
    finally:
        served.store.connection.client = working
    root = check_tree(spans.get_finished_spans())
    assert root.status.status_code is StatusCode.ERROR
    assert (root.attributes or {})["error.type"] == "store_error"
    failed = [each for each in spans.get_finished_spans() if each.kind is SpanKind.CLIENT]
    assert [(each.attributes or {}).get("error.type") for each in failed] == ["StoreError"] * len(failed)


# -- Other programs ---------------------------------------------------------------------------------------------------


NO_COLLECTIONS = b'{"result": {"collections": []}, "status": "ok", "time": 0}'


class Recording(BaseHTTPRequestHandler):
    """Records requests in `server.seen`; answers as a Qdrant without collections."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, headers, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(NO_COLLECTIONS)))
        self.end_headers()
        self.wfile.write(NO_COLLECTIONS)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Recording) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_qdrant_gets_the_traceparent_of_the_request(recorder: Any, spans: InMemorySpanExporter, tmp_path: Path) -> None:
    traces = tracing.active
    assert traces is not None
    client = ServerClient(StoreAddress(tmp_path, url=f"http://127.0.0.1:{recorder.server_port}", api_key="secret"))
    with traces.span("request", "SERVER"):
        client.call("get_collections")
    client.call("get_collections")
    client.close()
    (root,) = spans.get_finished_spans()
    traced, untraced = (headers for _, headers, _ in recorder.seen)
    assert root.context is not None
    assert traced["traceparent"].startswith(f"00-{trace_of(root)}-{root.context.span_id:016x}-")
    assert "baggage" not in traced
    assert "traceparent" not in untraced


def test_a_read_from_s3_is_a_span_that_names_the_bucket_alone(spans: InMemorySpanExporter) -> None:
    traces = tracing.active
    assert traces is not None
    with Objects(s3=MemoryObjects({"s3://bucket/zebra.jpg": b"a"})) as objects:
        objects.read("s3://bucket/zebra.jpg", 10)
        assert spans.get_finished_spans() == (), "nobody asked for a trace"
        with traces.span("request", "SERVER"):
            objects.read("s3://bucket/zebra.jpg", 10)
            with pytest.raises(ObjectError):
                objects.stat("s3://bucket/zebra.png")
    read, stat, _ = spans.get_finished_spans()
    assert (read.name, stat.name) == ("S3.GetObject", "S3.HeadObject")
    assert (read.attributes or {})["aws.s3.bucket"] == "bucket"
    assert (read.status.status_code, stat.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert "zebra" not in read.to_json() + stat.to_json()


def test_spans_are_exported_to_the_collector_of_the_environment(recorder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{recorder.server_port}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    start_traces()
    try:
        assert tracing.active is not None
        with tracing.active.span("a span"):
            pass
    finally:
        tracing.stop()
    (path, headers, body) = recorder.seen[0]
    assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    for text in (b"a span", b"viewfinder", b"deployment.environment.name"):
        assert text in body


@pytest.mark.parametrize(("sampler", "count"), [("always_off", 0), ("parentbased_always_on", 1)])
def test_the_sampler_is_that_of_the_environment(
    recorder: Any, monkeypatch: pytest.MonkeyPatch, sampler: str, count: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{recorder.server_port}")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    start_traces()
    try:
        assert tracing.active is not None
        with tracing.active.span("a span"):
            pass
    finally:
        tracing.stop()
    assert len(recorder.seen) == count


# -- Off --------------------------------------------------------------------------------------------------------------

OFF = """
import sys
from pathlib import Path
from viewfinder import Client, tracing
from viewfinder.store import StoreAddress, open_local
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings

def loaded():
    return [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]

assert not loaded(), loaded()
from fastapi.testclient import TestClient  # FastAPI itself loads the API
before = loaded()
from viewfinder.service.http.api import build_api

store = open_local(StoreAddress(data_dir=Path(sys.argv[1])))
follower = Follower(store, "images", Models(lambda checkpoint: None, batch_size=1), refresh_s=1)
service = SearchService(store, [follower], Settings.load({}))
with TestClient(build_api(service), "http://127.0.0.1", client=("127.0.0.1", 1)) as client:
    answer = client.get("/v1/search?q=a", headers={"traceparent": "00-%032x-%016x-01" % (1, 1)})
    assert (answer.status_code, "traceresponse" in answer.headers) == (503, False), answer.text
service.close()
assert tracing.active is None and tracing.current_traceparent() is None
assert loaded() == before, set(loaded()) - set(before)
assert not [name for name in before if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
"""


def test_without_the_setting_nothing_of_opentelemetry_is_loaded(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OFF, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_setting_an_answer_and_the_log_have_no_trace(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "viewfinder.access"):
        answer = world.client.get("/v1/search?q=a+dog", headers={"traceparent": TRACEPARENT})
    assert "traceresponse" not in answer.headers
    assert json.loads(caplog.records[-1].message)["trace_id"] is None
