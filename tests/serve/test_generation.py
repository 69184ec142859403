"""How a replica follows the alias: one step, never a mixed pair, and the old generation when the new one fails."""

import shutil
from pathlib import Path

import pytest

from tests.serve.conftest import INDEX, World
from viewfinder.models import locate
from viewfinder.testing.models import tiny_checkpoint


def pair(world: World) -> tuple[str, str]:
    body = world.client.get("/v1/search", params={"q": "a cat", "target": "caption"}).json()
    return body["model"], body["collection"]


def test_the_alias_moves_and_model_and_collection_change_together(served: World) -> None:
    first = pair(served)
    second = served.build("second")
    assert pair(served) == first, "a replica changes at its own look at the alias, not in the middle of it"
    served.service.follower.refresh()
    assert pair(served) == (served.checkpoints["second"].name, second.name)


def test_the_alias_moves_back_and_the_service_with_it(served: World) -> None:
    first = pair(served)
    served.build("second")
    served.service.follower.refresh()
    served.store.promote(INDEX, first[1])
    served.service.follower.refresh()
    assert pair(served) == first


def test_a_new_collection_of_the_same_model_keeps_the_encoder(served: World) -> None:
    before = served.service.generation()
    served.build("first")
    served.service.follower.refresh()
    after = served.service.generation()
    assert after.collection.name != before.collection.name
    assert after.encoder is before.encoder


def test_a_model_that_cannot_be_loaded_leaves_the_old_generation_serving_and_says_so(
    served: World, tmp_path: Path
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
    assert str(lost) in ready.json()["problem"]


def test_weights_that_moved_under_the_same_name_are_not_served(served: World, tmp_path: Path) -> None:
    first = pair(served)
    moved = tiny_checkpoint(tmp_path / "moved", seed=3)
    served.checkpoints["moved"] = locate(str(moved))
    served.build("moved")
    tiny_checkpoint(moved, seed=4)
    served.service.follower.refresh()
    assert pair(served) == first
    assert served.checkpoints["moved"].fingerprint in str(served.service.follower.problem)


def test_a_collection_dropped_behind_the_replica_costs_no_request(served: World) -> None:
    old = served.service.generation().collection
    second = served.build("second")
    served.store.drop(old.name)
    assert pair(served)[1] == second.name


@pytest.mark.parametrize("text", ["a cat", "a dog in the snow"])
def test_a_cached_text_gives_the_same_hits(served: World, text: str) -> None:
    answers = [served.client.get("/v1/search", params={"q": text}).json()["hits"] for _ in range(2)]
    assert answers[0] == answers[1]
