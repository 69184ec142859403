"""A service on a real socket: the application of `serve` over an embedded store and a small model, without Ray."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import uvicorn

from serve.api import build_api
from serve.generation import Follower
from serve.service import SearchService
from viewfinder.batch import PointBatch
from viewfinder.encoder import Encoder
from viewfinder.models import locate
from viewfinder.objects import point_id
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
    encoder = Encoder.load(checkpoint, device="cpu")
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


@contextmanager
def _serving(store: Store, encoder: Encoder | None) -> Iterator[str]:
    def load(checkpoint: object) -> Encoder:
        assert encoder is not None
        return encoder

    follower = Follower(store, INDEX, load=load, refresh_s=3600, batch_size=8)
    service = SearchService(store, follower, request_timeout_s=30)
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
