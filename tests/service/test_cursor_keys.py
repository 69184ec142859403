"""The keys of cursors: shared by the replicas of a deployment, and changed without broken cursors."""

import itertools
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.service.conftest import World, replica_of
from viewfinder.errors import ConfigurationError
from viewfinder.service.app import with_cursor_key
from viewfinder.settings import Settings

pytestmark = pytest.mark.slow

BODY = {"text": "a cat", "limit": 2}


@contextmanager
def replica(world: World, settings: Settings) -> Iterator[TestClient]:
    """A replica that got its settings in a message, as from Ray."""
    with replica_of(world.store, world.service.follower, pickle.loads(pickle.dumps(settings))) as client:
        yield client


def second_page(first: TestClient, second: TestClient) -> Any:
    cursor = first.post("/v1/search", json=BODY).json()["cursor"]
    return second.post("/v1/search", json={**BODY, "cursor": cursor})


def test_replicas_of_one_deployment_accept_each_others_cursors(shared: World) -> None:
    settings = with_cursor_key(Settings.load({}))
    with replica(shared, settings) as one, replica(shared, settings) as other:
        answer = second_page(one, other)
        assert answer.status_code == 200
        assert answer.json()["hits"]


def test_cursors_of_another_deployment_are_refused_without_a_common_key(shared: World) -> None:
    with (
        replica(shared, with_cursor_key(Settings.load({}))) as one,
        replica(shared, with_cursor_key(Settings.load({}))) as other,
    ):
        answer = second_page(one, other)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["hint"]) == (
            400,
            "invalid_cursor",
            "Search again without a cursor.",
        )


def test_a_key_is_changed_one_deployment_after_another(shared: World) -> None:
    old, new = "the old key of this service", "the new key of this service"
    steps = [Settings.load({}, cursor_keys=keys) for keys in (old, f"{new},{old}", new)]
    for before, after in itertools.pairwise(steps):
        with replica(shared, with_cursor_key(before)) as one, replica(shared, with_cursor_key(after)) as other:
            assert second_page(one, other).status_code == 200


def test_a_short_key_is_refused_and_no_key_is_shown() -> None:
    with pytest.raises(ConfigurationError, match="entry 2 of 2 is shorter than 16 characters") as raised:
        Settings.load({}, cursor_keys="a key that is long enough,short secret")
    assert "secret" not in str(raised.value)
    assert "long enough" not in repr(Settings.load({}, cursor_keys="a key that is long enough"))
