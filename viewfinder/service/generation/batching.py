"""Dynamic batching: requests that wait for the model at the same time are encoded together."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Batcher(Generic[ItemT, ResultT]):
    """Calls a function that is cheaper per batch, one batch at a time, in its own thread.

    A batch never waits to fill: an idle function starts at once with the items there are, and items that arrive
    meanwhile form the next batch, up to `max_size`. So a single client does not wait and many clients get full batches.
    A request of more than `max_size` items is encoded in several batches, between which other requests have their turn,
    and which stop when the request is cancelled. Smaller ones are never split.
    (`ray.serve.batch` waits a fixed time for each batch, and works only inside a replica.)
    """

    def __init__(self, function: Callable[[list[ItemT]], Sequence[ResultT]], *, max_size: int) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {max_size}")
        self._function = function
        self._max_size = max_size
        self._waiting: deque[tuple[Sequence[ItemT], asyncio.Future[list[ResultT]]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._lock = threading.Lock()  # `close` may be called from any thread
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False
        self.pending = 0  # items of all requests that are not encoded yet

    async def __call__(self, item: ItemT) -> ResultT:
        """The function's result for one item; raises the function's error if the batch fails."""
        return (await self.many([item]))[0]

    async def many(self, items: Sequence[ItemT]) -> list[ResultT]:
        """The function's results for several items, `max_size` at a time."""
        results: list[ResultT] = []
        self.pending += len(items)
        try:
            while len(results) < len(items):
                results += await self._encode(items[len(results) : len(results) + self._max_size])
        finally:
            self.pending -= len(items)
        return results

    async def _encode(self, items: Sequence[ItemT]) -> list[ResultT]:
        future: asyncio.Future[list[ResultT]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    def close(self) -> None:
        """End the thread once its batch is done. Later items are still served, by a new thread."""
        self._closed = True
        self._end_thread()

    async def _run(self) -> None:
        try:
            while batch := self._next():
                items = [item for group, _ in batch for item in group]
                try:
                    results = await asyncio.wrap_future(self._submit(items))
                    if len(results) != len(items):
                        raise RuntimeError(f"the function returned {len(results)} results for {len(items)} items")
                except Exception as error:
                    # Every waiting request gets the error; the batcher continues with the next batch.
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for group, future in batch:
                        mine, results = results[: len(group)], results[len(group) :]
                        if not future.done():
                            future.set_result(mine)
        finally:
            self._running = None
            if self._closed:
                self._end_thread()

    def _next(self) -> list[tuple[Sequence[ItemT], "asyncio.Future[list[ResultT]]"]]:
        """The next batch, without requests whose clients have disconnected."""
        batch: list[tuple[Sequence[ItemT], asyncio.Future[list[ResultT]]]] = []
        size = 0
        while self._waiting:
            items, future = self._waiting[0]
            if batch and size + len(items) > self._max_size:
                break
            self._waiting.popleft()
            if not future.done():
                batch.append((items, future))
                size += len(items)
        return batch

    def _submit(self, items: list[ItemT]) -> "Future[list[ResultT]]":
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
            return self._thread.submit(lambda: list(self._function(items)))

    def _end_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                self._thread.shutdown(wait=False)
                self._thread = None
