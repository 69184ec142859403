"""Dynamic batching: requests that wait for the model at the same time are encoded together."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from viewfinder import tracing

# A request is small with up to this part of the largest batch.
SMALL_SHARE = 4

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[ItemT, ResultT]):
    """A request, or a part of a large one, that waits for its batch; `traced` is its place in the queue, if traced."""

    items: Sequence[ItemT]
    future: asyncio.Future[list[ResultT]]
    traced: tracing.Waiting | None


class Batcher(Generic[ItemT, ResultT]):
    """Calls a function that is cheaper per batch, one batch at a time, in its own thread.

    A batch never waits to fill: an idle function starts at once with the items there are, and items that arrive
    meanwhile form the next batch, up to `max_size`. So a single client does not wait and many clients get full batches.
    A request of more than `max_size` items is encoded in several batches, between which other requests have their turn,
    and which stop when the request is cancelled. Smaller ones are never split. Batches that begin
    with small requests alternate with those that begin with large ones: however many of these there are, the small ones
    have half of the time.
    (`ray.serve.batch` waits a fixed time for each batch, and works only inside a replica.) `labels` gives the
    attributes of its spans.
    """

    def __init__(
        self,
        function: Callable[[list[ItemT]], Sequence[ResultT]],
        *,
        max_size: int,
        labels: Callable[[], tracing.Attributes] = dict,
    ) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {max_size}")
        self._function = function
        self._max_size = max_size
        self._labels = labels
        self._small: deque[_Waiting[ItemT, ResultT]] = deque()
        self._large: deque[_Waiting[ItemT, ResultT]] = deque()
        self._large_next = False
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
        queue = self._small if len(items) <= self._max_size // SMALL_SHARE else self._large
        self.pending += len(items)
        try:
            while len(results) < len(items):
                results += await self._encode(items[len(results) : len(results) + self._max_size], queue)
        finally:
            self.pending -= len(items)
        return results

    async def _encode(self, items: Sequence[ItemT], queue: deque[_Waiting[ItemT, ResultT]]) -> list[ResultT]:
        future: asyncio.Future[list[ResultT]] = asyncio.get_running_loop().create_future()
        traced = None if tracing.active is None else tracing.active.waiting()
        queue.append(_Waiting(items, future, traced))
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
                items = [item for each in batch for item in each.items]
                spans = None if tracing.active is None else self._spans(tracing.active, batch)
                try:
                    results = await asyncio.wrap_future(self._submit(items))
                    if len(results) != len(items):
                        raise RuntimeError(f"the function returned {len(results)} results for {len(items)} items")
                except Exception as error:
                    if spans is not None:
                        spans.end(error)
                    # Every waiting request gets the error; the batcher continues with the next batch.
                    for each in batch:
                        if not each.future.done():
                            each.future.set_exception(error)
                else:
                    if spans is not None:
                        spans.end()
                    for each in batch:
                        mine, results = results[: len(each.items)], results[len(each.items) :]
                        if not each.future.done():
                            each.future.set_result(mine)
        finally:
            self._running = None
            if self._closed:
                self._end_thread()

    def _spans(self, traces: tracing.Traces, batch: Sequence[_Waiting[ItemT, ResultT]]) -> tracing.BatchSpans | None:
        """The spans of a batch that begins; None if none of its requests is traced."""
        waiting = [(each.traced, len(each.items)) for each in batch if each.traced is not None]
        return traces.batch("encode", self._labels(), waiting) if waiting else None

    def _next(self) -> list[_Waiting[ItemT, ResultT]]:
        """The next batch, without requests whose clients have disconnected: of small requests and of large in turn."""
        queues = (self._large, self._small) if self._large_next else (self._small, self._large)
        self._large_next = not self._large_next
        batch: list[_Waiting[ItemT, ResultT]] = []
        size = 0
        for queue in queues:
            while queue:
                each = queue[0]
                if batch and size + len(each.items) > self._max_size:
                    break
                queue.popleft()
                if not each.future.done():
                    batch.append(each)
                    size += len(each.items)
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
