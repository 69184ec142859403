"""Receives bodies from clients that may not send them."""

import asyncio

from starlette.types import Message, Receive

from viewfinder.service.http.errors import HTTPError
from viewfinder.service.http.sending import MIN_BYTES_PER_S, PAUSE_S


def at_minimum_rate(receive: Receive, *, pause_s: float = PAUSE_S, min_bytes_per_s: float = MIN_BYTES_PER_S) -> Receive:
    """`receive` for one body; raises an `HTTPError` once the client has paused for `pause_s` in all.

    Otherwise a client could send most of a large body and keep it in memory until the request's time is over.
    """
    left_s = pause_s

    async def receive_part() -> Message:
        nonlocal left_s
        loop = asyncio.get_running_loop()
        deadline = loop.time() + left_s
        try:
            async with asyncio.timeout_at(deadline) as limit:
                message = await receive()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HTTPError(
                408,
                "body_too_slow",
                f"The body arrived at less than {min_bytes_per_s:,} bytes a second.",
                "Send it without pauses, or use a faster connection.",
            ) from error
        earned_s = len(message.get("body", b"")) / min_bytes_per_s
        left_s = min(pause_s, deadline - loop.time() + earned_s)
        return message

    return receive_part
