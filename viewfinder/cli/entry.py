"""How every job begins and ends: where it logs and prints, and what a mistake looks like."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from viewfinder.errors import ViewfinderError

STOPPED = "Stopped. What is indexed stays; the same command goes on from here."


def finish(job: Callable[[], int]) -> int:
    """Run `job` for its exit status: 0 done, 1 failed, 2 wrong usage or configuration; errors in one message."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("ray", "httpx", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with _terminable():
        try:
            return job()
        except ViewfinderError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            print(STOPPED, file=sys.stderr)
            return 1


def stdout() -> Console:
    """Standard output, for what a job has to say in the end; in a pipe wide enough that tables stay whole."""
    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=160)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a job that its cluster evicts release its lease, like one that is interrupted by hand."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
