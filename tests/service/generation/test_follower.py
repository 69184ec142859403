"""A replica without the model of the live collection: health, what it answers, and what waits for a model."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import INDEX, World
from tests.service.conftest import load as shared
from viewfinder.errors import CollectionMissingError, ModelMismatchError, StoreUnavailableError, UnknownModelError
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation import follower as module
from viewfinder.service.generation.follower import Follower, UnhealthyError
from viewfinder.service.generation.models import Models
from viewfinder.store import Store
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow

WAIT_S = 30


class Gate:
    """Loads the tiny models; `closed` makes a load wait."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()

    def __call__(self, checkpoint: Checkpoint) -> Encoder:
        self.waiting.set()
        assert self.open.wait(WAIT_S)
        return shared(checkpoint)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def follower(world: World, gate: Gate) -> Iterator[Follower]:
    made = Follower(world.store, INDEX, Models(gate, batch_size=8), refresh_s=0.01)
    yield made
    made.close()


def lose(world: World, directory: Path, *, promote: bool = True) -> None:
    """Make a live collection whose model no longer exists."""
    lost = tiny_checkpoint(directory / "lost", seed=3)
    world.checkpoints["lost"] = locate(str(lost))
    world.build("lost", promote=promote)
    shutil.rmtree(lost)


def change(world: World, directory: Path) -> None:
    """Make a live collection whose model's weights have been replaced since."""
    moved = tiny_checkpoint(directory / "moved", seed=3)
    world.checkpoints["moved"] = locate(str(moved))
    world.build("moved")
    tiny_checkpoint(moved, seed=4)


def test_a_replica_does_not_start_if_the_weights_of_the_live_model_are_gone(
    world: World, follower: Follower, tmp_path: Path
) -> None:
    """Regression: it started without a model, failed every search fastest and so attracted the traffic."""
    lose(world, tmp_path)
    with pytest.raises(UnknownModelError):
        follower.start()


def test_a_replica_does_not_start_with_other_weights(world: World, follower: Follower, tmp_path: Path) -> None:
    change(world, tmp_path)
    with pytest.raises(ModelMismatchError):
        follower.start()


class Image:
    """Loads only the models whose weights an image has."""

    def __init__(self, world: World, *names: str) -> None:
        self._models = {world.checkpoints[each].name for each in names}

    def __call__(self, checkpoint: Checkpoint) -> Encoder:
        if checkpoint.name not in self._models:
            raise UnknownModelError(f"{checkpoint.name!r} is not in this image")
        return shared(checkpoint)


def test_the_order_of_images_in_a_change_of_model(world: World) -> None:
    def replica(*models: str) -> Follower:
        return Follower(world.store, INDEX, Models(Image(world, *models), batch_size=8), refresh_s=0.01)

    def serves(follower: Follower) -> str:
        assert follower.current is not None
        return follower.current.collection.metadata.fingerprint

    first, second = (world.checkpoints[each].fingerprint for each in ("first", "second"))
    world.build("first")
    early, both = replica("second"), replica("first", "second")
    with pytest.raises(UnknownModelError, match="not in this image"):
        early.start()
    both.start()
    assert serves(both) == first
    world.build("second")
    deadline = time.monotonic() + WAIT_S
    while serves(both) != second and time.monotonic() < deadline:
        time.sleep(0.01)
    assert serves(both) == second
    late = replica("second")
    late.start()
    assert serves(late) == second
    for each in (early, both, late):
        each.close()


@pytest.mark.parametrize("at", ["load", "warm up"])
def test_a_replica_does_not_start_if_its_model_fails(world: World, at: str) -> None:
    class Full:
        """A model that does not fit into memory, as on a full GPU."""

        def __init__(self) -> None:
            if at == "load":
                raise MemoryError

        def encode_texts(self, texts: list[str]) -> Any:
            raise MemoryError

    world.build("first")
    follower = Follower(world.store, INDEX, Models(lambda _: Full(), batch_size=8), refresh_s=1)  # type: ignore[arg-type, return-value]
    with pytest.raises(MemoryError):
        follower.start()
    follower.close()


def test_without_an_index_a_replica_starts_empty_and_healthy(follower: Follower) -> None:
    follower.start()
    follower.check()
    assert follower.current is None
    assert follower.absent


class Unavailable:
    """The collections of a store that is unavailable for the first requests."""

    def __init__(self, store: Store, requests: int) -> None:
        self._collections = store.collections
        self.left = requests

    def live(self, index: str) -> Any:
        if self.left > 0:
            self.left -= 1
            raise StoreUnavailableError("connection refused")
        return self._collections.live(index)


def test_a_replica_that_starts_waits_for_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_RETRY_S", 0.001)
    world.build("first")
    store = copy_with(world.store, Unavailable(world.store, 3))
    follower = Follower(store, INDEX, Models(shared, batch_size=8), refresh_s=3600)
    follower.start()
    assert follower.current is not None
    follower.close()


def copy_with(store: Store, collections: Any) -> Store:
    import copy

    twin = copy.copy(store)
    twin.collections = collections
    return twin


def test_an_unavailable_store_leaves_a_replica_healthy(world: World) -> None:
    world.build("first")
    collections = Unavailable(world.store, 0)
    follower = Follower(copy_with(world.store, collections), INDEX, Models(shared, batch_size=8), refresh_s=3600)
    follower.refresh()
    collections.left = 1
    follower.refresh()
    follower.check()
    assert follower.current is not None
    assert "cannot be looked up" in str(follower.behind)
    follower.close()


def test_a_replica_that_cannot_load_the_next_model_answers_and_is_healthy(served: World, tmp_path: Path) -> None:
    lose(served, tmp_path)
    served.service.follower.refresh()
    assert served.client.get("/healthz").status_code == 200
    assert served.client.post("/v1/search", json={"text": "a cat"}).status_code == 200
    for path in ("/readyz", "/v1/stats"):
        behind = served.client.get(path).json()["behind"]
        assert "cannot be loaded: its weights cannot be found" in behind
        assert str(tmp_path) not in behind, "paths of the server belong in its log only"


def test_a_replica_without_a_generation_while_an_index_is_live_is_unhealthy(world: World, tmp_path: Path) -> None:
    world.service.follower.refresh()
    assert world.client.get("/healthz").status_code == 200, "there is no index yet"
    lose(world, tmp_path)
    world.service.follower.refresh()
    with pytest.raises(UnhealthyError, match="cannot be found"):
        world.service.follower.check()
    answer = world.client.get("/healthz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert world.client.get("/readyz").status_code == 503

    world.build("second")
    world.service.follower.refresh()
    world.service.follower.check()
    assert world.client.get("/healthz").status_code == 200


def test_the_reason_names_the_collection_and_what_is_wrong(served: World, tmp_path: Path) -> None:
    change(served, tmp_path)
    served.service.follower.refresh()
    live = served.store.collections.live(INDEX)
    assert live is not None
    behind = str(served.service.follower.behind)
    assert repr(live.name) in behind
    assert "the weights on this machine are not those that made it" in behind


def test_a_replica_that_loads_its_first_model_is_healthy(world: World, follower: Follower, gate: Gate) -> None:
    follower.start()
    gate.open.clear()
    world.build("first")
    assert gate.waiting.wait(WAIT_S)
    follower.check()
    gate.open.set()


def test_requests_do_not_wait_for_a_model_that_loads(world: World, follower: Follower, gate: Gate) -> None:
    """Regression: each took a thread of the searches until the model was loaded, so nothing was answered meanwhile."""
    old = world.build("first")
    follower.start()
    gate.open.clear()
    gate.waiting.clear()
    world.build("second")
    assert gate.waiting.wait(WAIT_S)
    requests = [threading.Thread(target=follower.refresh) for _ in range(40)]
    for each in requests:
        each.start()
    for each in requests:
        each.join(WAIT_S)
    assert not gate.open.is_set()
    assert not any(each.is_alive() for each in requests)
    assert follower.snapshot().collection.name == old.name
    gate.open.set()


def test_only_the_followers_own_thread_loads_models(world: World, gate: Gate) -> None:
    world.build("first")
    loaders: list[str] = []

    def load(checkpoint: Checkpoint) -> Encoder:
        loaders.append(threading.current_thread().name)
        gate.waiting.set()
        return shared(checkpoint)

    follower = Follower(world.store, INDEX, Models(load, batch_size=8), refresh_s=3600)
    follower.start()
    world.build("second")
    gate.waiting.clear()
    follower.refresh()
    assert gate.waiting.wait(WAIT_S), "a request that finds another live collection wakes the follower"
    follower.close()
    assert loaders[1:] == ["follower"]


def test_a_search_while_the_next_model_loads_and_the_collection_is_dropped_is_not_ready(served: World) -> None:
    class Dropped:
        def __getattr__(self, name: str) -> Any:
            def refuse(*_: Any, **__: Any) -> Any:
                raise CollectionMissingError("the collection does not exist")

            return refuse

    served.store.search = Dropped()  # type: ignore[assignment]
    answer = served.client.post("/v1/search", json={"text": "a cat"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
