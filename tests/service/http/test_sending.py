"""Clients that do not read their answers."""

import asyncio
import json

import pytest
from starlette.types import Message

from tests.service.http.guarded import Served
from tests.service.http.test_limits import nothing_more, run
from viewfinder.service.http.guard import capacity
from viewfinder.service.http.sending import MAX_SENDING, MAX_UNSENT_BYTES, PART_BYTES, Sending, SlowClientError

pytestmark = pytest.mark.slow


async def never_read(message: Message) -> None:
    if message["type"] == "http.response.body":
        await asyncio.Event().wait()


async def test_clients_that_do_not_read_their_answers_leave_room_for_others() -> None:
    """Regression: 320 of them shut out everybody, as each kept its place in the queue until it had read."""
    served = Served(batch_size=1, queue_size=1)
    room = capacity(served.settings)
    stuck = [
        asyncio.create_task(run(served.api, "/v1/things/a", nothing_more, [], send=never_read)) for _ in range(5 * room)
    ]
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in stuck)
    messages: list[Message] = []
    await run(served.api, "/v1/things/a", nothing_more, messages)
    assert messages[0]["status"] == 200
    for each in stuck:
        each.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_a_replica_that_sends_too_many_answers_refuses_further_requests() -> None:
    served = Served(batch_size=512, queue_size=2000)
    stuck = [
        asyncio.create_task(run(served.api, "/v1/things/a", nothing_more, [], send=never_read))
        for _ in range(MAX_SENDING)
    ]
    await asyncio.sleep(0.5)
    messages: list[Message] = []
    await run(served.api, "/v1/things/a", nothing_more, messages)
    assert json.loads(messages[1]["body"])["error"]["code"] == "overloaded"
    for each in stuck:
        each.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    again: list[Message] = []
    await run(served.api, "/v1/things/a", nothing_more, again)
    assert again[0]["status"] == 200


def body(size: int, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": b"x" * size, "more_body": more}


async def test_a_client_that_stops_reading_is_given_up() -> None:
    sending = Sending(pause_s=0.02, min_bytes_per_s=1e9)
    with pytest.raises(SlowClientError):
        await sending.at_minimum_rate(never_read)(body(10))
    assert sending.unsent_bytes == 0


async def test_a_client_that_reads_slowly_but_at_the_minimum_rate_gets_its_answer() -> None:
    received = []

    async def slow(message: Message) -> None:
        await asyncio.sleep(0.03)
        received.append(len(message["body"]))

    sending = Sending(pause_s=0.1, min_bytes_per_s=10)
    send = sending.at_minimum_rate(slow)
    for _ in range(10):
        await send(body(10, more=True))
    assert sum(received) == 100


async def test_pauses_add_up() -> None:
    """Otherwise one byte every few seconds would keep an answer for ever."""

    async def slow(message: Message) -> None:
        await asyncio.sleep(0.03)

    send = Sending(pause_s=0.1, min_bytes_per_s=1e9).at_minimum_rate(slow)

    async def send_all() -> None:
        for _ in range(20):
            await send(body(1, more=True))

    with pytest.raises(SlowClientError):
        await send_all()


async def test_the_time_in_which_an_answer_is_made_does_not_count() -> None:
    async def read(message: Message) -> None:
        pass

    send = Sending(pause_s=0.02, min_bytes_per_s=1e9).at_minimum_rate(read)
    for _ in range(5):
        await asyncio.sleep(0.01)
        await send(body(1, more=True))


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
@pytest.mark.parametrize("more", [False, True])
async def test_a_large_body_is_sent_in_parts(size: int, more: bool) -> None:
    """A server keeps the message that a client did not read, after that client was given up."""
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    await Sending().at_minimum_rate(keep)(body(size, more=more))
    assert sum(len(each["body"]) for each in sent) == size
    assert max(len(each["body"]) for each in sent) <= PART_BYTES
    assert [each["more_body"] for each in sent] == [True] * (len(sent) - 1) + [more]


async def test_the_bytes_of_unread_answers_are_limited() -> None:
    sending = Sending()
    assert not sending.is_full()
    sending.unsent_bytes = MAX_UNSENT_BYTES
    assert sending.is_full()


async def test_an_answer_that_is_given_up_breaks_the_connection_without_a_second_answer() -> None:
    served = Served()
    messages: list[Message] = []

    async def given_up(message: Message) -> None:
        messages.append(message)
        if message["type"] == "http.response.body":
            raise SlowClientError("too slow")

    await run(served.api, "/v1/things/a", nothing_more, [], send=given_up)
    assert [each["type"] for each in messages] == ["http.response.start", "http.response.body"]
