"""Time of a search at the client's socket minus that of the encoder and the vector search."""

import contextlib
import http.client
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Measurement
from benchmarks.replica import POINTS, distinct_texts, listening, replica
from benchmarks.vit import exported, model_name
from viewfinder.arrays import Vectors
from viewfinder.models.encoder import Encoder
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.store import Collection, Search, Store, StoredHit
from viewfinder.store.search import Searches


def measure(quick: bool) -> Measurement:
    """The median in milliseconds over requests of one client, each with a different text."""
    threads = round(Settings.model_fields["replica_cpus"].default)
    untimed = exported(quick, threads=threads, precision="float32")
    encoder = _TimedEncoder(untimed.checkpoint, untimed.runtime)
    with replica(encoder, batch_size=Settings.model_fields["batch_size"].default, kind=_TimedStore) as service:
        assert isinstance(service.store, _TimedStore)
        requests = _requests(service, encoder, service.store.search, 5 if quick else 200)
    overhead_ms = [each.overhead_ms for each in requests]
    lowest, *_, highest = quantiles(overhead_ms, n=10)
    stages = {
        "whole request": [each.total_ms for each in requests],
        "encoder": [each.encode_ms for each in requests],
        "vector search": [each.search_ms for each in requests],
        "overhead": overhead_ms,
    }
    shown = ", ".join(f"{name} {median(ms):.1f} and {quantiles(ms, n=100)[-1]:.1f} ms" for name, ms in stages.items())
    return Measurement(
        median(overhead_ms),
        f"median of {len(requests)} requests by one client over a kept connection to uvicorn in this process, "
        f"without Ray's proxy; 10th to 90th percentile {lowest:.1f} to {highest:.1f} ms; median and 99th percentile, "
        f"from socket to socket: {shown}; "
        f"{model_name(quick)}, {threads} thread, embedded store of {POINTS} points",
    )


@dataclass(frozen=True)
class _Request:
    """Milliseconds of one request as a client sees it, and of the encoder and the vector search within it."""

    total_ms: float
    encode_ms: float
    search_ms: float

    @property
    def overhead_ms(self) -> float:
        return self.total_ms - self.encode_ms - self.search_ms


class _TimedEncoder(Encoder):
    spent_s = 0.0

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        began = time.perf_counter()
        try:
            return super().encode_texts(texts)
        finally:
            self.spent_s += time.perf_counter() - began


class _TimedSearches(Searches):
    spent_s = 0.0

    def many(self, collection: Collection, searches: Sequence[Search]) -> list[list[StoredHit]]:
        began = time.perf_counter()
        try:
            return super().many(collection, searches)
        finally:
            self.spent_s += time.perf_counter() - began


class _TimedStore(Store):
    search: _TimedSearches

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.search = _TimedSearches(self.connection, self.collections)


def _requests(service: SearchService, encoder: _TimedEncoder, searches: _TimedSearches, count: int) -> list[_Request]:
    """Make requests one after the other, each with a different text; the first tenth does not count."""
    requests: list[_Request] = []
    warm_ups = max(1, count // 10)
    with (
        listening(build_api(service)) as port,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
    ):
        for number, text in zip(range(warm_ups + count), distinct_texts(), strict=False):
            body = json.dumps({"text": text})
            encoder.spent_s = searches.spent_s = 0.0
            began = time.perf_counter()
            connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            elapsed_s = time.perf_counter() - began
            if answer.status != 200:
                raise RuntimeError(f"the service answered {answer.status}: {content[:300]!r}")
            if number < warm_ups:
                continue
            requests.append(_Request(elapsed_s * 1000, encoder.spent_s * 1000, searches.spent_s * 1000))
            if len(requests) % max(1, count // 5) == 0:
                shown = f"{len(requests)}/{count}: {requests[-1].total_ms:.1f} ms"
                print(f"service_overhead_ms: {shown}", file=sys.stderr, flush=True)
    return requests
