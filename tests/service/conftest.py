"""One replica's service without Ray: a real store in a directory, a real encoder with small random weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.service.watched_loop import WatchedLoop
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Store
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.memory_store import open_in_memory
from viewfinder.testing.models import tiny_checkpoint

INDEX = "images"
CAPTIONS = ("a cat on a mat", "a dog in the snow", "a red car", "two birds", "a boat at sea")

_encoders: dict[tuple[str, str], Encoder] = {}


def load(checkpoint: Checkpoint) -> Encoder:
    """The encoder of a checkpoint, loaded once for all worlds."""
    key = (checkpoint.name, checkpoint.fingerprint)  # two directories may hold the same weights
    if key not in _encoders:
        _encoders[key] = Encoder.load(checkpoint, device="cpu")
    return _encoders[key]


@dataclass
class World:
    """A store with its service, and the means to make further collections in it."""

    store: Store
    service: SearchService
    client: TestClient
    checkpoints: dict[str, Checkpoint]

    def build(
        self, model: str, captions: tuple[str, ...] = CAPTIONS, *, promote: bool = True, index: str = INDEX
    ) -> Collection:
        """A collection of one model, its captions encoded by that model, its images random unit vectors."""
        checkpoint = self.checkpoints[model]
        encoder = load(checkpoint)
        collection = self.store.collections.create(index, ModelIdentity.of(checkpoint))
        uris = [f"s3://bucket/{number}.jpg" for number in range(len(captions))]
        vectors, _ = encoder.encode_texts(list(captions))
        payloads = [
            {"uri": uri, "caption": text, "width": 100 * (number + 1), "height": 50, "sources": ["s3://bucket"]}
            for number, (uri, text) in enumerate(zip(uris, captions, strict=True))
        ]
        rng = np.random.default_rng(0)
        images = rng.normal(size=vectors.shape).astype(np.float32)
        batch = PointBatch([point_id(uri) for uri in uris], payloads, image=images, caption=vectors)
        self.store.points.upsert(collection, batch, wait=True)
        if promote:
            self.store.collections.promote(index, collection.name)
        return collection


def local_client(api: FastAPI, *, address: str = "127.0.0.1") -> TestClient:
    """A client with this address that uses a loopback name as the host."""
    return TestClient(
        api,
        "http://127.0.0.1",
        raise_server_exceptions=False,
        client=(address, 50_000),
        backend_options={"loop_factory": WatchedLoop},
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("checkpoints")
    first = tiny_checkpoint(root / "first", seed=1, dimension=32)
    second = tiny_checkpoint(root / "second", seed=2, dimension=16)
    return {"first": locate(str(first)), "second": locate(str(second))}


@pytest.fixture
def configured() -> dict[str, object]:
    """Settings other than the defaults; a module or a test overrides this fixture."""
    return {}


@contextmanager
def open_world(
    directory: Path,
    checkpoints: dict[str, Checkpoint],
    configured: dict[str, object],
    store: Store | None = None,
    indexes: tuple[str, ...] = (INDEX,),
    load: Callable[[Checkpoint], Encoder] = load,
) -> Iterator[World]:
    """A world that lasts as long as the block; nothing is in its store yet."""
    store = store or open_in_memory(directory)
    models = Models(load, batch_size=8)
    followers = [
        # Tests call `refresh` themselves.
        Follower(store, each, models, refresh_s=3600, required=each == indexes[0])
        for each in indexes
    ]
    service = SearchService(store, followers, Settings.load({}, **configured))
    with local_client(build_api(service)) as client:
        yield World(store, service, client, checkpoints)
    service.close()


@contextmanager
def replica_of(store: Store, follower: Follower, settings: Settings) -> Iterator[TestClient]:
    """A client of another replica, on a store and a follower that stay open."""
    service = SearchService(store, [follower], settings)
    try:
        with local_client(build_api(service)) as client:
            yield client
    finally:
        service.images.close()
        service.content.close()
        service.new_images.close()


@pytest.fixture
def world(tmp_path: Path, checkpoints: dict[str, Checkpoint], configured: dict[str, object]) -> Iterator[World]:
    with open_world(tmp_path, checkpoints, configured) as world:
        yield world


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Checkpoint]) -> Iterator[World]:
    """As `served`, with the default settings, for all tests that only read."""
    with open_world(tmp_path_factory.mktemp("shared"), checkpoints, {}) as world:
        world.build("first")
        world.service.follower.refresh()
        yield world


@pytest.fixture
def served(world: World) -> World:
    """A world for one test, with a live collection that the service has loaded."""
    world.build("first")
    world.service.follower.refresh()
    return world
