"""The service on a real socket beside clients that do not read their answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.replica import listening
from tests.service.conftest import World, open_world
from tests.service.deaf_clients import deaf_clients
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.service.http.api import build_api
from viewfinder.service.http.guard import capacity

pytestmark = pytest.mark.slow

CAPTIONS = tuple(f"a cat number {number} " + "with many words " * 400 for number in range(60))
LARGEST = json.dumps({"text": "a cat", "limit": 60}).encode()
SEARCH = (
    b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (
        len(LARGEST),
        LARGEST,
    )
)


@pytest.fixture
def large(tmp_path: Path, checkpoints: dict[str, Checkpoint], configured: dict[str, object]) -> Iterator[World]:
    """A service whose answers are larger than the buffers of a socket."""
    with open_world(tmp_path, checkpoints, configured) as world:
        world.build("first", CAPTIONS)
        world.service.follower.refresh()
        yield world


@pytest.mark.parametrize(
    ("configured", "count"),
    [
        ({"batch_size": 1, "queue_size": 4}, 40),
        pytest.param({}, 320, marks=pytest.mark.full),
    ],
)
def test_clients_that_do_not_read_leave_room_for_others(large: World, count: int) -> None:
    """Regression: as many as the queue has places shut out everybody, as each kept its place until it had read."""
    assert count >= capacity(large.service.settings)
    with listening(build_api(large.service)) as port, deaf_clients(port, count, SEARCH):
        address = f"http://127.0.0.1:{port}/v1/search"
        for number in range(3):
            answer = httpx.post(address, json={"text": f"a dog {number}", "limit": 1}, timeout=60)
            assert answer.status_code == 200
            assert len(answer.json()["hits"]) == 1
