"""Sends answers to clients that may not read them."""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Send

# Maximum number of answers, and of their bytes, that are being sent at the same time.
MAX_SENDING = 1024
MAX_UNSENT_BYTES = 256 * 1024**2
# A client may pause for this long in all, and must read at this rate otherwise.
PAUSE_S = 10.0
MIN_BYTES_PER_S = 16 * 1024
# Size of one message to the server: after a client is given up, a server still keeps the message that it did not read.
PART_BYTES = 256 * 1024


class SlowClientError(Exception):
    """The client reads its answer too slowly."""


@dataclass
class Sending:
    """The answers that a replica is sending: `count`, and the bytes that clients have not read yet."""

    pause_s: float = PAUSE_S
    min_bytes_per_s: float = MIN_BYTES_PER_S
    count: int = 0
    unsent_bytes: int = 0

    def is_full(self) -> bool:
        return self.count >= MAX_SENDING or self.unsent_bytes >= MAX_UNSENT_BYTES

    def at_minimum_rate(self, send: Send) -> Send:
        """`send` for one answer; raises `SlowClientError` once the client has paused for `pause_s` in all.

        Only the time in which the client does not read counts, not that in which the answer is made.
        """
        pause_s = self.pause_s

        async def send_part(message: Message) -> None:
            nonlocal pause_s
            size = len(message.get("body", b""))
            loop = asyncio.get_running_loop()
            deadline = loop.time() + pause_s + size / self.min_bytes_per_s
            self.unsent_bytes += size
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    await send(message)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise SlowClientError(f"The client read less than {self.min_bytes_per_s:,} bytes a second.") from error
            finally:
                self.unsent_bytes -= size
            pause_s = min(self.pause_s, deadline - loop.time())

        async def send_all(message: Message) -> None:
            body = message.get("body", b"")
            if len(body) <= PART_BYTES:
                await send_part(message)
                return
            view = memoryview(body)
            for start in range(0, len(body), PART_BYTES):
                more = bool(message.get("more_body")) or start + PART_BYTES < len(body)
                await send_part({**message, "body": bytes(view[start : start + PART_BYTES]), "more_body": more})

        return send_all
