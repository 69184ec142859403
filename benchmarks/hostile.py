"""The 99th percentile of 32 clients' searches beside a hostile client, and without it."""

import asyncio
import itertools
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from PIL import Image

from benchmarks.attacks import attack
from benchmarks.harness import Measurement
from benchmarks.load import Ask, Outcome, crowd
from benchmarks.replica import INDEX, distinct_texts, listening
from benchmarks.vit import model_name, vit_checkpoint
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store import Store, StoreAddress, open_local, open_shared
from viewfinder.store.recorded import SourceRecord
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity

CLIENTS = 32
POINTS = 2_000
ROUNDS, SECONDS = 3, 20.0
SECOND_INDEX = "second"
_SPAWN = multiprocessing.get_context("spawn")


def measure(quick: bool) -> Measurement:
    """The median of the 99th percentiles with the hostile client ÷ without it, in turn; no search may fail."""
    rounds, seconds = (1, 3.0) if quick else (ROUNDS, SECONDS)
    alone: list[Outcome] = []
    beside: list[Outcome] = []
    attacked = Counter[str]()
    with _service(quick) as (address, images), ProcessPoolExecutor(2, mp_context=_SPAWN) as clients:
        known, cursor = _first_page(address)
        clients.submit(normal, address, 1.0, 0).result()  # warm up
        for number in range(1, rounds + 1):
            alone.append(clients.submit(normal, address, seconds, 2 * number).result())
            hostile = clients.submit(attack_for, address, seconds, known, cursor, images)
            beside.append(clients.submit(normal, address, seconds, 2 * number + 1).result())
            attacked += hostile.result()
            print(
                f"hostile_client: {number}/{rounds}: {_p99(alone[-1]):.0f} and {_p99(beside[-1]):.0f} ms",
                file=sys.stderr,
            )
    if errors := sum((each.errors for each in [*alone, *beside]), Counter()):
        raise RuntimeError(f"searches of normal clients failed: {dict(errors)}")
    calm, hostile_ms = (median(map(_p99, each)) for each in (alone, beside))
    return Measurement(hostile_ms / calm, _detail(quick, alone, beside, attacked))


def normal(address: str, seconds: float, number: int) -> Outcome:
    """Searches by texts that no other call with another `number` asks for."""
    texts = (f"{text} {number}" for text in itertools.cycle(distinct_texts()))
    asks = (Ask("text", "POST", "/v1/search", {"text": text}) for text in texts)
    return asyncio.run(crowd(address, asks, clients=CLIENTS, seconds=seconds))


def attack_for(address: str, seconds: float, known: list[str], cursor: str, directory: str) -> Counter[str]:
    """`attack` in this process, which begins at once."""
    return asyncio.run(attack(address, seconds, known, cursor, directory))


def _detail(quick: bool, alone: list[Outcome], beside: list[Outcome], attacked: Counter[str]) -> str:
    rates = [median(each.per_second for each in outcomes) for outcomes in (alone, beside)]
    middle = [median(each.percentiles_ms("text")[0] for each in outcomes) for outcomes in (alone, beside)]
    high = [median(map(_p99, outcomes)) for outcomes in (alone, beside)]
    shown = ", ".join(f"{count} {status}" for status, count in attacked.most_common())
    return (
        f"alone and beside the hostile client: 99th percentile {high[0]:.0f} and {high[1]:.0f} ms, median "
        f"{middle[0]:.0f} and {middle[1]:.0f} ms, {rates[0]:.0f} and {rates[1]:.0f} searches/s; medians of "
        f"{len(alone)} pairs in turn; its requests ended with {shown}; {CLIENTS} clients, {model_name(quick)}, "
        f"embedded store of {POINTS} points, uvicorn in a process of its own, without Ray"
    )


def _p99(outcome: Outcome) -> float:
    return outcome.percentiles_ms("text")[2]


def _first_page(address: str) -> tuple[list[str], str]:
    """Ids of the index, and a cursor of the service."""
    answer = (
        httpx.post(f"{address}/v1/search", json={"text": "a cat", "limit": 1}, timeout=60).raise_for_status().json()
    )
    more = (
        httpx.post(f"{address}/v1/search", json={"text": "a cat", "limit": 200}, timeout=60).raise_for_status().json()
    )
    return [each["id"] for each in more["hits"]], answer["cursor"]


@contextmanager
def _service(quick: bool) -> Iterator[tuple[str, str]]:
    """The address of a replica with two indexes, and the directory whose images the first one has."""
    checkpoint = vit_checkpoint(quick)
    with tempfile.TemporaryDirectory(prefix="viewfinder-bench-", ignore_cleanup_errors=True) as directory:
        images = Path(directory) / "images"
        images.mkdir()
        Image.new("RGB", (640, 480), "red").save(images / "known.jpg")
        settings = Settings.load(
            {},
            data_dir=directory,
            allow_image_url=True,
            uploads_uri=f"{directory}/uploads",
            indexes=(INDEX, SECOND_INDEX),
        )
        address, threads = StoreAddress.of(settings), round(settings.replica_cpus)
        models = Models(lambda each: Encoder.load(each, device="cpu", threads=threads), batch_size=settings.batch_size)
        with _held(address), open_shared(address) as store:
            for index in settings.indexes:
                fill(store, index, checkpoint, images)
            followers = [Follower(store, each, models, refresh_s=settings.refresh_s) for each in settings.indexes]
            service = SearchService(store, followers, settings)
            try:
                service.start()
                with listening(build_api(service)) as port:
                    yield f"http://127.0.0.1:{port}", canonical_uri(str(images))
            finally:
                service.close()


@contextmanager
def _held(address: StoreAddress) -> Iterator[None]:
    """The embedded store in a process of its own, as on Ray."""
    ours, theirs = _SPAWN.Pipe()
    holder = _SPAWN.Process(target=_hold, args=(address, theirs))
    holder.start()
    try:
        ours.recv()
        yield
    finally:
        ours.send(None)
        holder.join()


def _hold(address: StoreAddress, parent: "Connection[None, None]") -> None:
    with open_local(address):
        parent.send(None)
        parent.recv()


def fill(store: Store, index: str, checkpoint: Checkpoint, images: Path) -> None:
    """A live collection of random vectors of images in this directory, and of their captions."""
    collection = store.collections.create(index, ModelIdentity.of(checkpoint))
    shape = (POINTS, checkpoint.dimension)
    vectors, captions = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    uris = [canonical_uri(str(images / f"{number}.jpg")) for number in range(POINTS)]
    payloads = [
        {"uri": uri, "caption": f"a cat number {number}", "width": number // 10, "sources": [str(images)]}
        for number, uri in enumerate(uris)
    ]
    batch = PointBatch([point_id(uri) for uri in uris], payloads, image=vectors, caption=captions)
    store.points.upsert(collection, batch, wait=True)
    store.collections.promote(index, collection.name)
    store.collections.records(collection).record_sources([SourceRecord(canonical_uri(str(images)))])
