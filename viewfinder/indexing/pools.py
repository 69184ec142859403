"""Pools of threads, and one that needs no thread."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class CallerPool(Executor):
    """Runs each task when it is submitted, in the thread of the caller."""

    def submit(self, task: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(task(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def thread_pool(size: int) -> Executor:
    """Return a pool of `size` threads; a single one is the thread of the caller."""
    return CallerPool() if size == 1 else ThreadPoolExecutor(size)
