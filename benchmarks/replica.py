"""The service of one replica without Ray, over a small embedded store."""

import contextlib
import itertools
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray

from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import Store, StoreAddress
from viewfinder.store.directory import open_directory
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity

INDEX = "images"
POINTS = 100

_START_TIMEOUT_S = 60

_COLOURS = ["red", "green", "blue", "white", "black", "yellow", "brown", "grey", "orange", "golden"]
_THINGS = ["car", "dog", "cat", "boat", "house", "bird", "horse", "train", "bridge", "child", "tower"]
_PLACES = ["the snow", "the rain", "a city street", "a garden", "the desert", "a forest", "the harbour", "a park"]
_TIMES = ["at night", "at noon", "in the morning", "in winter", "in summer", "after a storm", "from above"]


@contextlib.contextmanager
def replica(encoder: Encoder, *, batch_size: int, kind: Callable[..., Store] = Store) -> Iterator[SearchService]:
    """A warm service over `POINTS` random vectors; `kind` is the class of its store."""
    with tempfile.TemporaryDirectory(prefix="viewfinder-bench-", ignore_cleanup_errors=True) as directory:
        address = StoreAddress(data_dir=Path(directory))
        store = kind(open_directory(address.data_dir), address)
        follower = Follower(store, INDEX, Models(lambda _: encoder, batch_size=batch_size), refresh_s=3600)
        service = SearchService(store, [follower], Settings.load({}, request_timeout_s=60))
        try:
            fill(store, encoder.checkpoint)
            follower.refresh()
            if follower.current is None:
                raise RuntimeError("the replica did not load its generation")
            yield service
        finally:
            service.close()


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """Serve an application on loopback; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError("uvicorn did not start")
                time.sleep(0.01)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(_START_TIMEOUT_S)


def distinct_texts() -> Iterator[str]:
    """Short queries without repetition, so that no cache helps; the same in every run."""
    parts = list(itertools.product(_COLOURS, _THINGS, _PLACES, _TIMES))
    random.Random(0).shuffle(parts)
    return (f"a {colour} {thing} in {place} {time}" for colour, thing, place, time in parts)


def random_vectors(dimension: int) -> NDArray[np.float32]:
    """float32 [POINTS, dimension], the same in every run."""
    return np.random.default_rng(0).normal(size=(POINTS, dimension)).astype(np.float32)


def fill(store: Store, checkpoint: Checkpoint) -> None:
    """Make a live collection of `POINTS` random vectors for this model."""
    collection = store.collections.create(INDEX, ModelIdentity.of(checkpoint))
    vectors = random_vectors(checkpoint.dimension)
    uris = [f"s3://bucket/{number}.jpg" for number in range(POINTS)]
    payloads = [{"uri": uri, "width": 640, "height": 480, "sources": ["s3://bucket"]} for uri in uris]
    store.points.upsert(collection, PointBatch([point_id(uri) for uri in uris], payloads, image=vectors), wait=True)
    store.collections.promote(INDEX, collection.name)
