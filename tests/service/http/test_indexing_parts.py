"""A request to index many images is carried out in parts, and stops after one if its client is gone or it is late."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.indexing.sample_images import encoded_image
from tests.service.conftest import load, open_world
from tests.service.http.test_indexing import Hooked, Library, configured, make, sent
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder
from viewfinder.service.new_images import PART, NewImage, NewImages
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

COUNT = PART + 4
LIMIT_S = 600


class Gate:
    """Lets calls through until it is closed, then so many more until it is released."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self._left: int | None = None

    def close_after(self, calls: int) -> None:
        self._left = calls

    def __call__(self) -> None:
        if self._left == 0:
            self.reached.set()
            self.released.wait(300)
        elif self._left is not None:
            self._left -= 1


class Timed(NewImages):
    """Remembers its time limits, so that a test can end them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.limits: list[asyncio.Timeout] = []

    def time_limit(self) -> asyncio.Timeout:
        self.limits.append(super().time_limit())
        return self.limits[-1]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def library(tmp_path: Path, checkpoints: dict[str, Checkpoint], gate: Gate) -> Iterator[Library]:
    def hooked(checkpoint: Checkpoint) -> Encoder:
        hooks: list[Callable[[], object]] = [gate]
        return cast(Encoder, Hooked(load(checkpoint), hooks))

    settings = {**configured(tmp_path), "request_timeout_s": LIMIT_S}
    with open_world(tmp_path / "store", checkpoints, settings, load=hooked) as world:
        yield make(tmp_path, world)
        gate.released.set()


def test_all_parts_are_one_run_and_a_field_has_one_type(library: Library) -> None:
    images = [sent(encoded_image(number), meta={"place": number}) for number in range(COUNT - 1)]
    answer = library.post(*images, sent(encoded_image(COUNT), meta={"place": "a beach"})).json()
    assert answer["indexed"] == COUNT
    payloads = [library.payload(each["uri"]) for each in answer["images"]]
    assert {each["run_id"] for each in payloads} == {answer["run_id"]}
    assert [each["meta"]["place"] for each in payloads] == [*map(str, range(COUNT - 1)), "a beach"]


async def test_a_late_request_is_answered_with_what_has_been_indexed(library: Library, gate: Gate) -> None:
    """Regression: the request got 504 and its indexing went on, so no answer told the outcomes."""
    uris = [library.add(f"{number}.jpg", encoded_image(number)) for number in range(COUNT)]
    gate.close_after(2)  # the batches of the first part
    service = library.world.service
    new_images = Timed(service.settings, service.store, service.images, service.metrics)
    request = asyncio.create_task(new_images.index([NewImage(each) for each in uris], service.follower, "an id"))
    await asyncio.to_thread(gate.reached.wait, 300)
    new_images.limits[0].reschedule(0)
    answer = await request
    assert (answer.indexed, answer.failed) == (PART, COUNT - PART)
    assert answer.run_id == library.payload(uris[0])["run_id"]
    late = answer.images[PART:]
    assert [(each.uri, each.id, each.reason) for each in late] == [
        (uri, point_id(uri), "timeout") for uri in uris[PART:]
    ]
    assert "Send it again" in str(late[0].message)
    gate.released.set()
    again = await new_images.index([NewImage(each) for each in uris], service.follower, "an id")
    assert again.indexed + again.unchanged == COUNT
    new_images.close()


async def test_a_request_whose_client_is_gone_stops_after_its_part(library: Library, gate: Gate) -> None:
    uris = [library.add(f"{number}.jpg", encoded_image(number)) for number in range(3 * PART)]
    gate.close_after(0)
    service = library.world.service
    request = asyncio.create_task(
        service.new_images.index([NewImage(each) for each in uris], service.follower, "an id")
    )
    await asyncio.to_thread(gate.reached.wait, 300)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    gate.released.set()

    def indexed() -> int:
        return library.world.store.points.count(library.live)

    async with asyncio.timeout(300):
        while await asyncio.to_thread(indexed) < PART:
            await asyncio.sleep(0.05)
    assert indexed() == PART
