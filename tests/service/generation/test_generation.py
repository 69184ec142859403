"""Generations: a replica follows the alias in one step, and shares the model between requests."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service.conftest import INDEX, World
from tests.service.conftest import load as shared
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower, UnhealthyError
from viewfinder.service.generation.generation import Generation, LoadedModel
from viewfinder.service.generation.models import Models
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow


def pair(world: World) -> tuple[str, str]:
    body = world.client.get("/v1/search", params={"q": "a cat", "target": "caption"}).json()
    return body["model"], body["collection"]


def test_model_and_collection_change_together(served: World) -> None:
    first = pair(served)
    second = served.build("second")
    assert pair(served) == first, "a replica changes only when it looks up the alias"
    served.service.follower.refresh()
    assert pair(served) == (served.checkpoints["second"].name, second.name)


def test_the_service_follows_the_alias_back(served: World) -> None:
    first = pair(served)
    served.build("second")
    served.service.follower.refresh()
    served.store.collections.promote(INDEX, first[1])
    served.service.follower.refresh()
    assert pair(served) == first


def test_a_new_collection_of_the_same_model_keeps_the_encoder(served: World) -> None:
    before = served.service.follower.snapshot()
    served.build("first")
    served.service.follower.refresh()
    after = served.service.follower.snapshot()
    assert after.collection.name != before.collection.name
    assert after.encoder is before.encoder


@pytest.mark.chaos("Service", "the model of the next generation cannot be loaded")
def test_the_old_generation_keeps_serving_if_the_new_model_cannot_be_loaded(
    served: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = pair(served)
    lost = tiny_checkpoint(tmp_path / "lost", seed=3)
    served.checkpoints["lost"] = locate(str(lost))
    served.build("lost")
    shutil.rmtree(lost)
    served.service.follower.refresh()
    assert pair(served) == first
    ready = served.client.get("/readyz")
    assert ready.status_code == 200
    assert "model of the live collection cannot be loaded" in ready.json()["behind"]
    assert str(lost) in caplog.text
    assert str(lost) not in ready.text, "paths of the server belong in its log only"


async def test_a_metric_reports_a_replica_that_cannot_follow(served: World, tmp_path: Path) -> None:
    metrics = Metrics()
    follower = follower_of(served, metrics=metrics)
    lost = tiny_checkpoint(tmp_path / "lost", seed=3)
    served.checkpoints["lost"] = locate(str(lost))
    first = served.store.collections.live(INDEX)
    assert first is not None
    follower.refresh()
    assert 'viewfinder_generation_behind{index="images"} 0.0' in metrics.text()
    served.build("lost")
    shutil.rmtree(lost)
    follower.refresh()
    assert 'viewfinder_generation_behind{index="images"} 1.0' in metrics.text()
    served.store.collections.promote(INDEX, first.name)
    follower.refresh()
    assert 'viewfinder_generation_behind{index="images"} 0.0' in metrics.text()
    follower.close()


@pytest.mark.chaos("Service", "the next generation fails to warm up")
def test_a_generation_that_fails_to_warm_up_is_tried_again(served: World) -> None:
    room = [False]

    class Full(Watched):
        """Runs out of memory, as on a GPU that the old generation fills."""

        def encode_texts(self, texts: list[str]) -> Any:
            if not room[0]:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().encode_texts(texts)

    def load(checkpoint: Checkpoint) -> Encoder:
        encoder = shared(checkpoint)
        return encoder if checkpoint == served.checkpoints["first"] else Full(encoder)  # type: ignore[return-value]

    follower = Follower(served.store, INDEX, Models(load, batch_size=8), refresh_s=3600)
    follower.refresh()
    first = follower.current
    assert first is not None
    second = served.build("second")
    follower.refresh()
    assert follower.current is first
    assert "cannot be loaded" in str(follower.behind)
    assert "CUDA" not in str(follower.behind), "it belongs in the log only"
    room[0] = True
    follower.refresh()
    assert follower.current is not None
    assert (follower.current.collection.name, follower.behind) == (second.name, None)
    follower.close()


def test_weights_that_changed_under_the_same_name_are_not_served(
    served: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = pair(served)
    moved = tiny_checkpoint(tmp_path / "moved", seed=3)
    served.checkpoints["moved"] = locate(str(moved))
    served.build("moved")
    tiny_checkpoint(moved, seed=4)
    served.service.follower.refresh()
    assert pair(served) == first
    assert "model of the live collection cannot be loaded" in str(served.service.follower.behind)
    assert served.checkpoints["moved"].fingerprint in caplog.text


def test_a_request_after_a_drop_is_answered_from_the_new_collection(served: World) -> None:
    old = served.service.follower.snapshot().collection
    second = served.build("second")
    served.store.collections.drop(old.name)
    assert pair(served)[1] == second.name


@pytest.mark.parametrize("text", ["a cat", "a dog in the snow"])
def test_a_cached_text_gives_the_same_hits(served: World, text: str) -> None:
    answers = [served.client.get("/v1/search", params={"q": text}).json()["hits"] for _ in range(2)]
    assert answers[0] == answers[1]


class Watched:
    """A real encoder that records its calls."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.texts: list[list[str]] = []
        self.images: list[int] = []
        self.texts_allowed = threading.Event()
        self.texts_allowed.set()
        self.images_allowed = threading.Event()
        self.images_allowed.set()
        self.is_complete = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_texts(self, texts: list[str]) -> Any:
        self.texts.append(texts)
        self.texts_allowed.wait(10)
        return self._encoder.encode_texts(texts)

    def encode_images(self, images: np.ndarray[Any, Any]) -> Any:
        self.images.append(len(images))
        self.images_allowed.wait(10)
        return self._encoder.encode_images(images)


@pytest.fixture
def watched(served: World) -> Watched:
    return Watched(served.service.follower.snapshot().encoder)


@pytest.fixture
def generation(served: World, watched: Watched) -> Iterator[Generation]:
    loaded = LoadedModel(watched, batch_size=4)  # type: ignore[arg-type]
    yield Generation(served.service.follower.snapshot().collection, loaded)
    loaded.close()


async def test_uncached_texts_are_encoded_in_full_batches(generation: Generation, watched: Watched) -> None:
    await generation.encode_texts(["a dog"])
    texts = [f"text {number}" for number in range(60)] + ["a dog", "text 3", "a cat", "a cat"]
    encoded = await generation.encode_texts(texts)
    uncached = [*(f"text {number}" for number in range(60)), "a cat"]
    assert watched.texts == [["a dog"], *(uncached[start : start + 4] for start in range(0, 61, 4))]
    alone, cut = watched._encoder.encode_texts(texts)
    assert np.allclose(np.array([vector for vector, _ in encoded]), alone, atol=1e-5)
    assert [tokens for _, tokens in encoded] == list(cut)


async def test_simultaneous_requests_for_a_text_encode_it_once(generation: Generation, watched: Watched) -> None:
    watched.texts_allowed.clear()
    requests = [asyncio.create_task(generation.encode_texts([text])) for text in ("a cat", "a cat", "a dog", "a cat")]
    while not watched.texts:
        await asyncio.sleep(0.001)
    late = asyncio.create_task(generation.encode_texts(["a cat"]))
    await asyncio.sleep(0)
    watched.texts_allowed.set()
    await asyncio.gather(*requests, late)
    assert sorted(text for texts in watched.texts for text in texts) == ["a cat", "a dog"]


async def test_images_of_several_requests_are_encoded_together_without_waiting_for_texts(
    generation: Generation, watched: Watched
) -> None:
    size = generation.encoder.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    watched.texts_allowed.clear()
    text = asyncio.create_task(generation.encode_texts(["a cat"]))
    while not watched.texts:
        await asyncio.sleep(0.001)
    first, second = await asyncio.gather(
        generation.encode_images(list(images[:1])), generation.encode_images(list(images[1:]))
    )
    assert not text.done()
    watched.texts_allowed.set()
    await text
    assert watched.images == [4]
    assert np.allclose(np.array(first + second), watched._encoder.encode_images(images), atol=1e-5)


async def test_texts_are_answered_while_the_image_tower_is_loaded(generation: Generation, watched: Watched) -> None:
    watched.is_complete = False
    watched.images_allowed.clear()
    generation.loaded.warm(wait_for_images=False)
    assert await generation.encode_texts(["a cat"])
    assert watched.texts == [["warm up"], ["a cat"]]
    watched.images_allowed.set()
    join("load-images")
    assert watched.images == [1]
    assert not generation.loaded.has_no_images


@pytest.mark.parametrize(("is_complete", "wait"), [(True, False), (False, True)])
def test_images_are_encoded_before_a_model_is_used_if_that_takes_no_longer_or_another_one_answers(
    generation: Generation, watched: Watched, monkeypatch: pytest.MonkeyPatch, is_complete: bool, wait: bool
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no memory")

    watched.is_complete = is_complete
    generation.loaded.warm(wait_for_images=wait)
    assert watched.images == [1]
    monkeypatch.setattr(watched, "encode_images", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        generation.loaded.warm(wait_for_images=wait)


def test_a_replica_whose_image_tower_cannot_be_loaded_is_unhealthy(
    served: World, watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no memory in /secret")

    watched.is_complete = False
    monkeypatch.setattr(watched, "encode_images", fail)
    models = Models(lambda _: watched, batch_size=4)  # type: ignore[arg-type, return-value]
    follower = Follower(served.store, INDEX, models, refresh_s=3600)
    follower.refresh()
    join("load-images")
    with pytest.raises(UnhealthyError, match="cannot encode images; see the service's log"):
        follower.check()
    assert "no memory in /secret" in caplog.text
    watched.is_complete = True  # a search by image has loaded it
    follower.check()
    follower.close()


def test_an_image_tower_is_loaded_again_after_a_passing_error(
    generation: Generation, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, encode = [OSError("Too many open files")], watched.encode_images

    def fail_once(images: Any) -> Any:
        if failing:
            raise failing.pop()
        return encode(images)

    watched.is_complete = False
    monkeypatch.setattr("viewfinder.service.generation.generation._IMAGES_RETRY_S", 0.01)
    monkeypatch.setattr(watched, "encode_images", fail_once)
    generation.loaded.warm(wait_for_images=False)
    join("load-images")
    assert watched.images == [1]
    assert not generation.loaded.has_no_images


def join(name: str) -> None:
    """Wait for the threads of this name."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)


async def test_cached_vectors_are_read_only_copies(generation: Generation) -> None:
    (vector, _), _ = await generation.encode_texts(["a cat", "a dog"])
    assert vector.base is None
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 0


def test_the_previous_generation_is_kept_for_the_grace_period(served: World) -> None:
    now = [0.0]
    follower = follower_of(served, clock=lambda: now[0], grace_s=100)
    follower.refresh()
    first = follower.current
    assert first is not None
    second = served.build("second")
    now[0] = 1000
    follower.refresh()
    assert follower.current is not None
    assert follower.current.collection.name == second.name
    assert follower.previous is first
    assert follower.known(first.collection.name) is first.collection
    assert follower.known(second.name) is follower.current.collection
    assert follower.known("images__unknown") is None
    now[0] = 1099
    follower.refresh()
    assert follower.previous is first
    now[0] = 1100
    follower.refresh()
    assert follower.previous is None
    assert follower.known(first.collection.name) is None
    follower.close()


def test_a_rollback_within_the_grace_period_loads_no_model(served: World) -> None:
    loaded: list[str] = []
    follower = follower_of(served, loaded=loaded)
    follower.refresh()
    first = follower.current
    assert first is not None
    second = served.build("second")
    follower.refresh()
    served.store.collections.promote(INDEX, first.collection.name)
    follower.refresh()
    assert follower.current is first
    assert follower.previous is not None
    assert follower.known(second.name) is follower.previous.collection
    assert loaded == [served.checkpoints["first"].name, served.checkpoints["second"].name]
    follower.close()


def test_at_most_two_models_are_in_memory(served: World, tmp_path: Path) -> None:
    seen: list[Generation | None] = []
    follower = follower_of(served, on_load=lambda: seen.append(follower.previous))
    follower.refresh()
    served.checkpoints["third"] = locate(str(tiny_checkpoint(tmp_path / "third", seed=5)))
    for model in ("second", "third"):
        served.build(model)
        follower.refresh()
    assert seen == [None, None, None]
    assert follower.previous is not None
    assert follower.previous.model == served.checkpoints["second"].name
    follower.close()


async def test_a_request_that_uses_a_dropped_generation_is_answered(served: World) -> None:
    follower = follower_of(served, grace_s=0)
    follower.refresh()
    dropped = follower.current
    assert dropped is not None
    await dropped.encode_texts(["a cat"])
    served.build("second")
    follower.refresh()
    follower.refresh()
    assert follower.known(dropped.collection.name) is None
    [(vector, _)] = await dropped.encode_texts(["a dog"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    follower.close()


def follower_of(
    world: World,
    *,
    loaded: list[str] | None = None,
    on_load: Callable[[], None] = lambda: None,
    **options: Any,
) -> Follower:
    def load(checkpoint: Checkpoint) -> Encoder:
        on_load()
        if loaded is not None:
            loaded.append(checkpoint.name)
        return shared(checkpoint)

    return Follower(world.store, INDEX, Models(load, batch_size=8), refresh_s=3600, **options)
