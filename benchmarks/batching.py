"""Searches per second at 32 clients, with dynamic batches and one by one, on the same replica and thread count."""

import asyncio
from collections.abc import Iterator
from typing import Literal

from benchmarks.harness import Measurement
from benchmarks.ratio import Ratio, in_turn
from benchmarks.replica import POINTS, distinct_texts, replica
from benchmarks.vit import exported, model_name
from viewfinder.query.query import Query, QueryPart
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings

CLIENTS = 32


def measure(quick: bool) -> Measurement:
    """Throughput with batches ÷ without, in float32; `detail` has bfloat16."""
    batch_size: int = Settings.model_fields["batch_size"].default
    threads = round(Settings.model_fields["replica_cpus"].default)
    searches = CLIENTS * (1 if quick else 3)
    ratio = _compare("float32", threads, batch_size, searches, quick, rounds=1 if quick else 7)
    other = _compare("bfloat16", threads, batch_size, searches, quick, rounds=1 if quick else 3)
    return Measurement(
        ratio.value,
        f"{searches / ratio.second_ms * 1000:.1f} searches/s in batches of up to {batch_size}, "
        f"{searches / ratio.first_ms * 1000:.1f} one by one ({ratio}); {CLIENTS} asyncio clients on one replica's "
        f"service in process, without HTTP and Ray; {model_name(quick)}, {threads} thread as in a replica, "
        f"distinct texts, embedded store of {POINTS} points; "
        f"in bfloat16 {other.value:.2f} ({searches / other.second_ms * 1000:.1f} searches/s in batches)",
    )


def _compare(
    precision: Literal["float32", "bfloat16"], threads: int, batch_size: int, searches: int, quick: bool, *, rounds: int
) -> Ratio:
    encoder = exported(quick, threads=threads, precision=precision)
    texts = distinct_texts()
    with (
        replica(encoder, batch_size=1) as single,
        replica(encoder, batch_size=batch_size) as batched,
        asyncio.Runner() as runner,
    ):
        return in_turn(
            f"batching in {precision}",
            lambda: runner.run(_crowd(single, texts, searches)),
            lambda: runner.run(_crowd(batched, texts, searches)),
            rounds=rounds,
        )


async def _crowd(service: SearchService, texts: Iterator[str], searches: int) -> None:
    """Run `CLIENTS` clients; each searches again as soon as it has its response."""

    async def client() -> None:
        for _ in range(searches // CLIENTS):
            await service.indexes.default.searcher.search(Query((QueryPart("text", next(texts)),)), None)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
