"""The metrics of a replica: `viewfinder_*` for Prometheus, exported by Ray if it runs.

`ray.util.metrics` sends the values to the agent of the replica's node, which exports them as `ray_viewfinder_*` beside
Ray's own. `GET /metrics` asks the agents of all nodes and keeps our metrics, so every replica reports the whole
cluster; a replica's own registry would show a different part of the traffic at each scrape. Agents run without Ray's
dashboard and are updated every ten seconds (`metrics_report_interval_ms`).
"""

import asyncio
import functools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, Protocol

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from viewfinder import tracing
from viewfinder.service.telemetry import access_log
from viewfinder.store import Collection

RequestStage = Literal["fetch", "decode", "encode", "search", "content"]
Recorder = Callable[[float, dict[str, str]], None]

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

AGENT_TIMEOUT_S = 5.0
# Agents that are asked at the same time.
MAX_AGENTS = 8
# Agents have new values every ten seconds. Their exports hold all metrics of their nodes, which take seconds to read.
MAX_AGE_S = 5.0
# Labels that an agent adds to every series.
AGENT_LABELS = re.compile(r'\b(?:otel_scope_\w+|SessionName|Version|Component)="[^"]*",?')


class Instruments(Protocol):
    """A metrics backend. Each method creates one metric and returns the function that records its values."""

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Recorder: ...
    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Recorder: ...
    def histogram(self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]) -> Recorder: ...

    def text(self) -> str:
        """All metrics in Prometheus' text format. May block."""
        ...


class Metrics:
    """The metrics of one replica. Thread-safe."""

    def __init__(self, instruments: Instruments | None = None) -> None:
        make = instruments or ProcessInstruments()
        self._instruments = make
        self._requests = make.histogram(
            "viewfinder_request_seconds", "Time to answer, by route.", ("method", "route", "status", "index"), SECONDS
        )
        self._stages = make.histogram("viewfinder_stage_seconds", "Time in a stage of requests.", ("stage",), SECONDS)
        # Ray estimates a histogram's sum from the middles of its buckets: totals need a counter.
        self._encoded = make.counter("viewfinder_encoded_total", "Texts and images encoded.", ("kind",))
        self._batches = make.histogram("viewfinder_batch_size", "Items of one encoder call.", ("kind",), SIZES)
        self._cache = make.counter("viewfinder_text_cache_total", "Lookups in the cache of encoded texts.", ("result",))
        self._indexed = make.counter(
            "viewfinder_images_indexed_total", "Images of requests to index them, by outcome.", ("outcome",)
        )
        self._errors = make.counter("viewfinder_errors_total", "Error responses, by code.", ("code",))
        self._in_flight = make.gauge("viewfinder_requests_in_flight", "Requests that a replica is answering.", ())
        self._queue = make.gauge("viewfinder_queue_depth", "Items waiting for a replica's encoder.", ())
        self._generations = make.gauge(
            "viewfinder_generation", "1 for the collection of an index in use.", ("index", "model", "collection")
        )
        self._behind = make.gauge(
            "viewfinder_generation_behind",
            "1 while a replica cannot follow the live collection; /v1/indexes gives the reason.",
            ("index",),
        )
        self._models = make.gauge("viewfinder_models", "Models in a replica's memory.", ())
        self._serving: dict[str, dict[str, str]] = {}

    def request(self, record: access_log.RequestRecord) -> None:
        """Count one finished request; a batch over several indexes counts for each of them."""
        labels = {"method": record.method, "route": record.path or "", "status": str(record.status)}
        for index in (record.index or "").split(","):
            self._requests(record.ms / 1000, {**labels, "index": index})
        if record.code:
            self.error(record.code)

    def observe(self, stage: RequestStage, seconds: float) -> None:
        """Record the time of a stage, also in the access log line of the current request."""
        self._stages(seconds, {"stage": stage})
        if record := access_log.current.get():
            record.stage(stage, seconds)

    @contextmanager
    def timed(self, stage: RequestStage) -> Iterator[None]:
        """`observe` a block, even if it raises, as a span if traces are on."""
        began = time.perf_counter()
        try:
            if tracing.active is None:
                yield
            else:
                with tracing.active.span(stage):
                    yield
        finally:
            self.observe(stage, time.perf_counter() - began)

    def batch(self, kind: Literal["text", "image"], size: int) -> None:
        """Count one call of the encoder, with this many items."""
        self._batches(size, {"kind": kind})
        self._encoded(size, {"kind": kind})

    def cache(self, *, hits: int, misses: int) -> None:
        for result, count in (("hit", hits), ("miss", misses)):
            if count:
                self._cache(count, {"result": result})

    def indexed(self, outcomes: Iterable[str]) -> None:
        """Count the images of one request to index them."""
        for outcome in outcomes:
            self._indexed(1, {"outcome": outcome})

    def error(self, code: str) -> None:
        self._errors(1, {"code": code})

    def in_flight(self, requests: int) -> None:
        self._in_flight(requests, {})

    def queue(self, depth: int) -> None:
        self._queue(depth, {})

    def generation(self, collection: Collection) -> None:
        """Mark the only collection of its index that the replica serves now."""
        if (before := self._serving.get(collection.index)) is not None:
            self._generations(0, before)
        labels = {
            "index": collection.index,
            "model": collection.metadata.model_name,
            "collection": collection.name,
        }
        self._serving[collection.index] = labels
        self._generations(1, labels)

    def behind(self, index: str, problem: bool) -> None:
        """Record that the replica cannot follow the live collection of an index, or that it can again."""
        self._behind(int(problem), {"index": index})

    def models(self, count: int) -> None:
        self._models(count, {})

    def text(self) -> str:
        """All metrics in Prometheus' text format. May block for `AGENT_TIMEOUT_S`."""
        return self._instruments.text()


class ProcessInstruments:
    """Metrics of this process alone, for use without Ray."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Recorder:
        metric = Counter(name, description, labels, registry=self._registry)
        return lambda value, given: (metric.labels(**given) if given else metric).inc(value)

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Recorder:
        metric = Gauge(name, description, labels, registry=self._registry)
        return lambda value, given: (metric.labels(**given) if given else metric).set(value)

    def histogram(self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]) -> Recorder:
        metric = Histogram(name, description, labels, buckets=bounds, registry=self._registry)
        return lambda value, given: (metric.labels(**given) if given else metric).observe(value)

    def text(self) -> str:
        return generate_latest(self._registry).decode()


class RayInstruments:
    """The metrics of all replicas of a Ray cluster, each series labelled with its application and replica."""

    def __init__(self, *, application: str, replica: str) -> None:
        # Imported here, so that the API can be built without Ray.
        import ray
        from ray.util import metrics

        self._ray = ray
        self._metrics = metrics
        self._tags = {"application": application, "replica": replica}

    def counter(self, name: str, description: str, labels: Sequence[str]) -> Recorder:
        metric = self._metrics.Counter(name, description, (*labels, *self._tags)).set_default_tags(self._tags)
        return lambda value, given: metric.inc(value, given)

    def gauge(self, name: str, description: str, labels: Sequence[str]) -> Recorder:
        metric = self._metrics.Gauge(name, description, (*labels, *self._tags)).set_default_tags(self._tags)
        return lambda value, given: metric.set(value, given)

    def histogram(self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]) -> Recorder:
        tags = (*labels, *self._tags)
        metric = self._metrics.Histogram(name, description, list(bounds), tags).set_default_tags(self._tags)
        return lambda value, given: metric.observe(value, given)

    def text(self) -> str:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        # Agents use plain HTTP inside the cluster: no proxy, and no certificates to load for each scrape.
        with (
            httpx.Client(timeout=AGENT_TIMEOUT_S, trust_env=False, verify=False) as client,
            ThreadPoolExecutor(MAX_AGENTS, thread_name_prefix="metrics") as threads,
        ):
            return merged(threads.map(functools.partial(_exported, client), nodes))


class CachedText:
    """A text that takes long to make: in a thread, once for simultaneous requests, and kept for `max_age_s`."""

    def __init__(self, make: Callable[[], str], *, max_age_s: float = MAX_AGE_S) -> None:
        self._make = make
        self._max_age_s = max_age_s
        self._lock = asyncio.Lock()
        self._text = ""
        self._made_at = -math.inf

    async def __call__(self) -> str:
        async with self._lock:
            if time.monotonic() - self._made_at >= self._max_age_s:
                self._text = await asyncio.to_thread(self._make)
                self._made_at = time.monotonic()
            return self._text


def _exported(client: httpx.Client, node: Mapping[str, object]) -> str:
    """The export of a node's agent; empty if it does not answer, since the other nodes' values are still valid."""
    address = str(node["NodeManagerAddress"])
    host = f"[{address}]" if ":" in address else address
    try:
        answer = client.get(f"http://{host}:{node['MetricsExportPort']}/metrics")
        answer.raise_for_status()
    except httpx.HTTPError:
        return ""
    return answer.text


def merged(exports: Iterable[str]) -> str:
    """Our metrics from the agents' exports, under our names, with the series of each family together."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for export in exports:
        family: tuple[list[str], list[str]] | None = None
        for line in export.splitlines():
            if line.startswith("# "):
                kind, name, text = [*line.removeprefix("# ").split(" ", 2), "", ""][:3]
                if not name.startswith("ray_viewfinder_"):
                    family = None
                    continue
                ours = name.removeprefix("ray_")
                family = families.setdefault(ours, ([], []))
                if (header := f"# {kind} {ours} {text}") not in family[0]:
                    family[0].append(header)
            elif family is not None and line:
                family[1].append(AGENT_LABELS.sub("", line.removeprefix("ray_")).replace(",}", "}"))
    return "".join(f"{line}\n" for headers, series in families.values() for line in (*headers, *series))
