"""Several indexes share the models in memory, of which there is a maximum number."""

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service.conftest import World
from tests.service.conftest import load as shared
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower, NotReadyError, UnhealthyError
from viewfinder.service.generation.models import Models
from viewfinder.store import Collection
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow

WAIT_S = 30


class Loader:
    """Loads the tiny models and counts how often; `close` makes the loads of a model wait."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failing: set[str] = set()
        self._gates: dict[str, threading.Event] = {}
        self.waiting = threading.Event()

    def close(self, name: str) -> threading.Event:
        self._gates[name] = threading.Event()
        return self._gates[name]

    def __call__(self, checkpoint: Checkpoint) -> Encoder:
        self.loaded.append(checkpoint.name)
        if checkpoint.name in self._gates:
            self.waiting.set()
            assert self._gates[checkpoint.name].wait(WAIT_S)
        if checkpoint.name in self.failing:
            raise MemoryError
        return shared(checkpoint)


def live(world: World, index: str, model: str) -> Collection:
    """A live collection of an index, empty."""
    made = world.store.collections.create(index, ModelIdentity.of(world.checkpoints[model]))
    world.store.collections.promote(index, made.name)
    return made


@contextmanager
def followers(world: World, loader: Loader, *names: str, maximum: int, **options: Any) -> Iterator[list[Follower]]:
    """The followers of indexes, of which the first is the default one."""
    models = Models(loader, batch_size=8, maximum=maximum)
    made = [Follower(world.store, each, models, refresh_s=3600, required=each == names[0], **options) for each in names]
    yield made
    for each in made:
        each.close()


@pytest.fixture
def loader() -> Loader:
    return Loader()


async def encodes_with(follower: Follower) -> str:
    """The name of the model that encodes a text for an index."""
    generation = await follower.ready()
    [(vector, _)] = await generation.encode_texts(["a cat"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert len(vector) == generation.collection.metadata.dimension
    return generation.encoder.checkpoint.name


async def test_indexes_of_one_model_share_it(world: World, loader: Loader) -> None:
    for index in ("a", "b"):
        live(world, index, "first")
    with followers(world, loader, "a", "b", maximum=1) as (a, b):
        a.refresh()
        b.refresh()
        one, other = await a.ready(), await b.ready()
        assert one.loaded is other.loaded
        assert (one.collection.index, other.collection.index) == ("a", "b")
        live(world, "a", "first")
        a.refresh()
        assert (await a.ready()).loaded is one.loaded
    assert loader.loaded == [world.checkpoints["first"].name]


async def test_the_least_recently_used_model_is_dropped(world: World, loader: Loader, tmp_path: Path) -> None:
    world.checkpoints["third"] = locate(str(tiny_checkpoint(tmp_path / "third", seed=5)))
    names = {each: world.checkpoints[each].name for each in ("first", "second", "third")}
    for index, model in (("a", "first"), ("b", "second"), ("c", "third")):
        live(world, index, model)
    with followers(world, loader, "a", "b", "c", maximum=2) as (a, b, c):
        for each in (a, b, c):
            each.refresh()
        assert loader.loaded == [names["first"], names["second"]], "those for which there is room"
        assert await encodes_with(a) == names["first"]
        assert await encodes_with(c) == names["third"]
        assert [each.current is not None for each in (a, b, c)] == [True, False, True]
        assert b.collection().index == "b", "without its model an index still lists images"
        b.check()
        assert b.behind is None
        assert await encodes_with(b) == names["second"]
        assert a.current is None
    assert loader.loaded[2:] == [names["third"], names["second"]]


async def test_a_request_keeps_the_model_that_another_one_replaces(world: World, loader: Loader) -> None:
    live(world, "a", "first")
    live(world, "b", "second")
    with followers(world, loader, "a", "b", maximum=1) as (a, b):
        a.refresh()
        b.refresh()
        mine = await a.ready()
        assert await encodes_with(b) == world.checkpoints["second"].name
        assert a.current is None
        [(vector, _)] = await mine.encode_texts(["a dog"])
        assert len(vector) == mine.collection.metadata.dimension


async def test_requests_wait_for_one_load_and_others_go_on(world: World, loader: Loader) -> None:
    live(world, "a", "first")
    live(world, "b", "second")
    gate = loader.close(world.checkpoints["second"].name)
    with followers(world, loader, "a", "b", maximum=2) as (a, b):
        a.refresh()
        b._change(None, None, cold=world.store.collections.live("b"))
        waiting = [asyncio.create_task(encodes_with(b)) for _ in range(8)]
        while not loader.waiting.is_set():
            await asyncio.sleep(0.001)
        assert await encodes_with(a) == world.checkpoints["first"].name
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting[1:])
        gate.set()
        assert set(await asyncio.gather(*waiting[1:])) == {world.checkpoints["second"].name}
    assert loader.loaded.count(world.checkpoints["second"].name) == 1


async def test_a_request_does_not_wait_for_ever(world: World, loader: Loader) -> None:
    live(world, "a", "first")
    live(world, "b", "second")
    with followers(world, loader, "a", "b", maximum=1, load_wait_s=0.05) as (a, b):
        a.refresh()
        b.refresh()
        gate = loader.close(world.checkpoints["second"].name)
        with pytest.raises(NotReadyError, match="'b' is being loaded"):
            await b.ready()
        b.check()
        gate.set()
        await asyncio.wrap_future(b.models.request(b.collection()))
        assert await encodes_with(b) == world.checkpoints["second"].name


async def test_a_model_without_weights_takes_no_place(world: World, loader: Loader, tmp_path: Path) -> None:
    lost = tiny_checkpoint(tmp_path / "lost", seed=3)
    world.checkpoints["lost"] = locate(str(lost))
    live(world, "a", "first")
    live(world, "b", "lost")
    shutil.rmtree(lost)
    with followers(world, loader, "a", "b", maximum=1) as (a, b):
        a.refresh()
        b.refresh()
        for _ in range(2):
            with pytest.raises(UnhealthyError, match="its weights cannot be found"):
                await b.ready()
        assert "its weights cannot be found" in str(b.behind)
        b.refresh()
        assert "its weights cannot be found" in str(b.behind)
        assert b.collection().index == "b"
        a.check()
        assert a.current is not None
        live(world, "b", "second")
        b.refresh()
        assert b.behind is None
        assert await encodes_with(b) == world.checkpoints["second"].name


async def test_a_model_that_failed_is_tried_again(world: World, loader: Loader) -> None:
    live(world, "a", "first")
    live(world, "b", "second")
    loader.failing.add(world.checkpoints["second"].name)
    with followers(world, loader, "a", "b", maximum=2) as (a, b):
        a.refresh()
        b.refresh()
        with pytest.raises(UnhealthyError, match="MemoryError"):
            await b.ready()
        a.check()
        loader.failing.clear()
        b.refresh()
        assert b.behind is None
        assert await encodes_with(b) == world.checkpoints["second"].name


async def test_the_next_model_is_loaded_beside_those_of_other_indexes(
    world: World, loader: Loader, tmp_path: Path
) -> None:
    world.checkpoints["third"] = locate(str(tiny_checkpoint(tmp_path / "third", seed=5)))
    live(world, "a", "first")
    live(world, "b", "second")
    with followers(world, loader, "a", "b", maximum=2) as (a, b):
        a.refresh()
        b.refresh()
        following = live(world, "b", "third")
        gate = loader.close(world.checkpoints["third"].name)
        change = threading.Thread(target=b.refresh)
        change.start()
        assert loader.waiting.wait(WAIT_S)
        assert await encodes_with(a) == world.checkpoints["first"].name
        assert await encodes_with(b) == world.checkpoints["second"].name
        gate.set()
        change.join(WAIT_S)
        assert b.collection().name == following.name
        assert await encodes_with(b) == world.checkpoints["third"].name
        assert await encodes_with(a) == world.checkpoints["first"].name
        assert b.previous is None, "its model was the one to drop"
    assert len(loader.loaded) == 3


async def test_a_cold_index_keeps_its_collection_if_the_next_model_is_not_there(
    world: World, loader: Loader, tmp_path: Path
) -> None:
    live(world, "a", "first")
    old = live(world, "b", "second")
    with followers(world, loader, "a", "b", maximum=1) as (a, b):
        a.refresh()
        b.refresh()
        lost = tiny_checkpoint(tmp_path / "lost", seed=3)
        world.checkpoints["lost"] = locate(str(lost))
        live(world, "b", "lost")
        shutil.rmtree(lost)
        b.refresh()
        assert b.collection().name == old.name
        assert "its weights cannot be found" in str(b.behind)
        assert await encodes_with(b) == world.checkpoints["second"].name


async def test_a_dropped_model_is_freed_without_a_collection_of_garbage(world: World) -> None:
    """Regression: models and their batchers held each other, and `gc.freeze` keeps such cycles for ever."""
    live(world, "a", "first")
    live(world, "b", "second")
    fresh = Models(lambda checkpoint: Encoder.load(checkpoint, device="cpu"), batch_size=8, maximum=1)
    a, b = (Follower(world.store, each, fresh, refresh_s=3600, required=each == "a") for each in ("a", "b"))
    gc.collect()
    gc.disable()
    try:
        a.refresh()
        b.refresh()
        mine = await a.ready()
        await mine.encode_texts(["a cat"])
        kept = weakref.ref(mine.loaded), weakref.ref(mine.encoder)
        await b.ready()
        assert all(each() is not None for each in kept)
        del mine
        await asyncio.sleep(0.05)
        assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()
        a.close()
        b.close()


async def test_a_model_that_no_index_needs_is_dropped(world: World, loader: Loader) -> None:
    now = [0.0]
    live(world, "a", "first")
    with followers(world, loader, "a", maximum=2, grace_s=100, clock=lambda: now[0]) as (a,):
        a.refresh()
        old = a.collection()
        live(world, "a", "second")
        a.refresh()
        assert a.models.get(old) is not None
        now[0] = 100
        a.refresh()
        assert a.models.get(old) is None
