"""The alias moves back and forth under load: no request fails, and no response mixes two collections."""

from functools import partial

import pytest

from benchmarks.clients import Answer, Clients
from tests.fixtures.services import listening
from tests.service.conftest import INDEX, World

CLIENTS = 16
SWAPS = 10
RESPONSES_BETWEEN = 64
WORDS = ("a cat on a mat", "a dog in the snow", "a red car", "two birds", "a boat at sea")
# Every third text is new, so that no cache has it.
TEXTS = [text if turn % 3 else f"{text} {turn}" for turn in range(1000) for text in WORDS]


def names(collection: str, answer: Answer) -> bool:
    return answer.body.get("collection") == collection


@pytest.mark.chaos("Service", "the model changes ten times under load")
def test_ten_swaps_fail_no_request_and_mix_no_collections(world: World) -> None:
    collections = {
        model: world.build(model, tuple(f"{model}: {text}" for text in WORDS), promote=model == "first")
        for model in ("first", "second")
    }
    models = {each.name: world.checkpoints[model].name for model, each in collections.items()}
    marks = {each.name: model for model, each in collections.items()}
    world.service.follower.refresh()
    with listening(world.service) as url:
        clients = Clients(url, TEXTS, CLIENTS, {"target": "caption", "limit": 5})
        with clients.asking():
            for number in range(SWAPS):
                to = collections["second" if number % 2 == 0 else "first"]
                world.store.collections.promote(INDEX, to.name)
                world.service.follower.refresh()
                clients.wait_for(partial(names, to.name), RESPONSES_BETWEEN)

    assert len(clients.answers) >= SWAPS * RESPONSES_BETWEEN
    assert clients.failed == []
    assert {answer.pair[1] for answer in clients.answers} == set(models)
    for answer in clients.answers:
        model, collection = answer.pair
        assert model == models[collection]
        hits = answer.body["hits"]
        assert len(hits) == 5
        assert all(hit["caption"].startswith(f"{marks[collection]}: ") for hit in hits)
