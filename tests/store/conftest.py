"""The stores with the same contract: a directory, the actor that holds one, a loopback server, a real server."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from viewfinder.cluster.session import start_ray
from viewfinder.store import Store, StoreAddress
from viewfinder.store.directory import open_directory
from viewfinder.store.embedded import attach
from viewfinder.store.server import ServerClient
from viewfinder.testing.qdrant import QdrantDouble

OPENAPI = os.environ.get("QDRANT_OPENAPI")


@pytest.fixture(scope="session")
def ray_cluster(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreAddress]:
    """The address of an embedded store whose holder is an actor of the session's Ray."""
    address = StoreAddress(data_dir=tmp_path_factory.mktemp("held"), retry_s=30)
    with start_ray(address):
        yield address


@pytest.fixture(
    params=[
        "directory",
        # The actor holds a directory, so most of the suite repeats; `make test` runs tests/store/test_holder.py.
        pytest.param("holder", marks=[pytest.mark.cluster, pytest.mark.full]),
        pytest.param("double", marks=pytest.mark.slow),
        "server",
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "directory":
        address = StoreAddress(data_dir=tmp_path, retry_s=0)
        with Store(open_directory(tmp_path), address) as made:
            yield made
    elif request.param == "holder":
        address = request.getfixturevalue("ray_cluster")
        with Store(attach(address.data_dir), address) as made:
            yield made
    elif request.param == "double":
        with QdrantDouble(openapi=Path(OPENAPI) if OPENAPI else None) as double:
            address = StoreAddress(data_dir=tmp_path, url=double.url, retry_s=0, timeout_s=20)
            with Store(ServerClient(address), address) as made:
                yield made
            assert double.invalid == []
    else:
        url = os.environ.get("QDRANT_URL")
        if url is None:
            pytest.skip("set QDRANT_URL (and QDRANT_API_KEY) to run against a real Qdrant server")
        address = StoreAddress(data_dir=tmp_path, url=url, api_key=os.environ.get("QDRANT_API_KEY"))
        with Store(ServerClient(address), address) as made:
            yield made


@pytest.fixture
def index(store: Store) -> Iterator[str]:
    """A unique index name; its collections are dropped after the test, because some stores outlive it."""
    name = f"t{uuid4().hex[:10]}"
    yield name
    for each in store.connection.call("get_collections").collections:
        if each.name.startswith(name):
            store.collections.drop(each.name)
