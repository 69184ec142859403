"""Searches per second at 32 clients over HTTP: the service against a FastAPI application without batches."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

from benchmarks.harness import Measurement
from benchmarks.load import Ask, Outcome, crowd, texts_only
from benchmarks.plain_service import plain_app
from benchmarks.ratio import in_turn
from benchmarks.replica import POINTS, listening, replica
from benchmarks.vit import exported, model_name, torch_threads, vit_checkpoint
from viewfinder.service.http.api import build_api
from viewfinder.settings import Settings

CLIENTS = 32


def measure(quick: bool) -> Measurement:
    """Time of the plain application ÷ time of the service, for the same number of searches."""
    searches = CLIENTS * (1 if quick else 4)
    batch_size: int = Settings.model_fields["batch_size"].default
    threads = round(Settings.model_fields["replica_cpus"].default)
    checkpoint = vit_checkpoint(quick)
    texts = texts_only()
    theirs, ours = Outcome(), Outcome()
    with torch_threads(threads), contextlib.ExitStack() as stack:
        encoder = exported(quick, threads=threads, precision="float32")
        service = stack.enter_context(replica(encoder, batch_size=batch_size))
        ports = [stack.enter_context(listening(app)) for app in (plain_app(checkpoint), build_api(service))]
        for port in ports:  # warm up here, because these must not count in the percentiles
            _searched(port, texts, searches, Outcome())
        ratio = in_turn(
            "service_vs_plain_app",
            lambda: _searched(ports[0], texts, searches, theirs),
            lambda: _searched(ports[1], texts, searches, ours),
            rounds=1 if quick else 7,
            warm_ups=0,
        )
    return Measurement(
        ratio.value,
        f"{searches / ratio.second_ms * 1000:.1f} searches/s, {_latency(ours)}; plain application "
        f"{searches / ratio.first_ms * 1000:.1f} searches/s, {_latency(theirs)} ({ratio}); {CLIENTS} clients over kept "
        f"connections to uvicorn in this process, without Ray; {model_name(quick)}, float32, {threads} thread for each "
        f"call of the encoder (the plain application makes as many calls at once as it has requests), distinct texts, "
        f"{POINTS} points in Qdrant's local mode",
    )


def _searched(port: int, texts: Iterator[Ask], searches: int, into: Outcome) -> None:
    met = asyncio.run(crowd(f"http://127.0.0.1:{port}", itertools.islice(texts, searches), clients=CLIENTS))
    if met.errors or met.answered != searches:
        raise RuntimeError(f"{met.answered} of {searches} searches were answered: {dict(met.errors)}")
    for kind, latencies in met.latencies_s.items():
        into.latencies_s[kind] += latencies


def _latency(outcome: Outcome) -> str:
    middle, _, high, _ = outcome.percentiles_ms("text")
    return f"median {middle:.0f} ms and 99th percentile {high:.0f} ms from socket to socket"
