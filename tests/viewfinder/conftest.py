"""A service on a real socket: the application of `serve` over an embedded store and a small model, without Ray."""

import functools
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from serve.api import build_api
from serve.generation import Follower
from serve.service import SearchService
from tests.jobs.pictures import fill
from viewfinder.baselines import renew
from viewfinder.batch import PointBatch
from viewfinder.encoder import Encoder
from viewfinder.images import ImageLimits, decode
from viewfinder.models import locate
from viewfinder.objects import canonical_uri, point_id
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, open_local

INDEX = "pictures"
CAPTIONS = ("a cat on a mat", "a dog in the snow", "a red car", "two birds", "a boat at sea")


@dataclass(frozen=True)
class Running:
    """A service that listens, with the collection that it serves."""

    url: str
    collection: str
    model: str
    fingerprint: str


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Iterator[Running]:
    """Five points; the vector of each picture is that of its caption, so that what is found can be foretold."""
    checkpoint = locate(tiny_model)
    encoder = _loaded(tiny_model)
    with open_local(StoreAddress(data_dir=tmp_path_factory.mktemp("served"))) as store:
        spec = asdict(checkpoint.spec)
        collection = store.open(INDEX, checkpoint.name, spec, checkpoint.fingerprint, checkpoint.dimension)
        uris = [f"s3://bucket/{number}.jpg" for number in range(len(CAPTIONS))]
        vectors, _ = encoder.encode_texts(list(CAPTIONS))
        payloads = [
            {"uri": uri, "caption": text, "width": 100 * (number + 1), "height": 50}
            for number, (uri, text) in enumerate(zip(uris, CAPTIONS, strict=True))
        ]
        batch = PointBatch([point_id(uri) for uri in uris], payloads, image=vectors, caption=vectors)
        store.upsert(collection, batch, wait=True)
        with _serving(store, encoder) as url:
            yield Running(url, collection.name, checkpoint.name, checkpoint.fingerprint)


@pytest.fixture
def without_index(tmp_path: Path, tiny_model: str) -> Iterator[str]:
    """The address of a service over an empty store."""
    with open_local(StoreAddress(data_dir=tmp_path / "empty")) as store, _serving(store, None) as url:
        yield url


@dataclass(frozen=True)
class Gallery:
    """A service whose pictures are real files; `files` are theirs, in the order of the captions `picture 0` to `23`."""

    url: str
    files: tuple[Path, ...]
    encoder: Encoder
    store: Store

    @property
    def uris(self) -> list[str]:
        return [canonical_uri(str(file)) for file in self.files]


READ_KEY, ADMIN_KEY = "a-key-to-read-with", "a-key-to-take-down-with"


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Iterator[Gallery]:
    """24 pictures, tagged even and odd by their number; tests leave them as they are."""
    with _gallery(tmp_path_factory.mktemp("gallery"), tiny_model, count=24, settings=Settings.load({})) as made:
        yield made


@pytest.fixture
def locked(tmp_path: Path, tiny_model: str) -> Iterator[Gallery]:
    """Three pictures behind `READ_KEY` and `ADMIN_KEY`."""
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in (READ_KEY, ADMIN_KEY)]
    settings = Settings.load({}, api_keys=f"{digests[0]},{digests[1]}:admin", index=INDEX)
    with _gallery(tmp_path, tiny_model, count=3, settings=settings) as made:
        yield made


@functools.cache
def _loaded(model: str) -> Encoder:
    return Encoder.load(locate(model), device="cpu")


@contextmanager
def _gallery(directory: Path, model: str, *, count: int, settings: Settings) -> Iterator[Gallery]:
    checkpoint = locate(model)
    encoder = _loaded(model)
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    names = [f"{number}.jpg" for number in range(count)]
    fill(directory / "pictures", names)
    files = tuple(directory / "pictures" / name for name in names)
    with open_local(StoreAddress(data_dir=directory / "data")) as store:
        spec = asdict(checkpoint.spec)
        collection = store.open(INDEX, checkpoint.name, spec, checkpoint.fingerprint, checkpoint.dimension)
        uris = [canonical_uri(str(file)) for file in files]
        pixels = [decode(file.read_bytes(), checkpoint.preprocess, limits).pixels for file in files]
        captions = [f"picture {number}" for number in range(count)]
        payloads = [
            {"uri": uri, "caption": caption, "format": "jpeg", "tags": ["odd" if number % 2 else "even"]}
            for number, (uri, caption) in enumerate(zip(uris, captions, strict=True))
        ]
        images, (texts, _) = encoder.encode_images(np.stack(pixels)), encoder.encode_texts(captions)
        batch = PointBatch([point_id(uri) for uri in uris], payloads, image=images, caption=texts)
        store.upsert(collection, batch, wait=True)
        renew(store, collection, count, lambda: encoder.encode_texts([f"thing {number}" for number in range(50)])[0])
        with _serving(store, encoder, settings) as url:
            yield Gallery(url, files, encoder, store)


@contextmanager
def _serving(store: Store, encoder: Encoder | None, settings: Settings | None = None) -> Iterator[str]:
    def load(checkpoint: object) -> Encoder:
        assert encoder is not None
        return encoder

    follower = Follower(store, INDEX, load=load, refresh_s=3600, batch_size=8)
    service = SearchService(store, follower, settings or Settings.load({}, index=INDEX))
    follower.refresh()
    # Bound here, so that requests wait in the socket's queue until the server takes them.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build_api(service), log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            service.close()
