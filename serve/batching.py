"""Requests that wait for the model at the same moment are encoded together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Feeds a function that is cheaper by the batch, one batch at a time, in a thread of its own.

    A batch never waits to fill: an idle function starts at once with what there is, and whatever arrives meanwhile
    makes the next batch, up to `max_size`. So a single client pays no waiting time and a crowd gets full batches.
    (`ray.serve.batch` waits a fixed time for each batch, and works only inside a replica.)
    """

    def __init__(self, function: Callable[[list[Item]], Sequence[Result]], *, max_size: int) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {max_size}")
        self._function = function
        self._max_size = max_size
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")

    async def __call__(self, item: Item) -> Result:
        """The function's result for one item; its error, if the batch that holds the item fails."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    def close(self) -> None:
        """End the thread, once the batch under way is done."""
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self._next():
                items = [item for item, _ in batch]
                try:
                    results = await loop.run_in_executor(self._thread, self._function, items)
                except Exception as error:
                    # Each waiting request gets the error, whatever it is; the batcher goes on with the next.
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), result in zip(batch, results, strict=True):
                        if not future.done():
                            future.set_result(result)
        finally:
            self._running = None

    def _next(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """The next batch, without the requests whose clients have gone."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
