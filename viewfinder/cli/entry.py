"""Logging, signals, execution and exit statuses of all commands."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from typer.exceptions import TyperException

from viewfinder.cli.output import report_error
from viewfinder.errors import ServiceError, ViewfinderError
from viewfinder.extras import packages_of, require
from viewfinder.settings import Settings
from viewfinder.terminal import PrintableFormatter

if TYPE_CHECKING:
    from viewfinder.indexing.executor import Executor
    from viewfinder.store import Store

DONE, FAILED = 0, 1
EXIT_STATUSES = "Exit status: 0 done, 1 failed, 2 wrong usage or configuration."
STOPPED = "Stopped. Indexed images are kept; run the same command again to continue."

_UNAUTHORIZED = 401
_KEY_HINT = " Set VIEWFINDER_API_KEY to a key of this service."


def exit_status(command: Callable[[], None], *, as_json: bool = False) -> int:
    """Run a command and return its exit status. An error is one message on standard error, or with `as_json` one line

    {"error": {"message": MESSAGE, "exit_status": STATUS}}
    """
    try:
        command()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else DONE if ended.code is None else FAILED
    except ViewfinderError as error:
        hint = _KEY_HINT if isinstance(error, ServiceError) and error.status == _UNAUTHORIZED else ""
        return _report(f"{error}{hint}", error.exit_status, as_json=as_json)
    except typer.Abort:  # only with `as_json`: without, typer handles these itself
        return _report("Aborted.", FAILED, as_json=as_json)
    except TyperException as error:
        return _report(error.format_message(), error.exit_code, as_json=as_json)
    return DONE


def _report(message: str, status: int, *, as_json: bool) -> int:
    report_error(message, status, as_json=as_json)
    return status


@contextmanager
def job(*, stopped: str = STOPPED) -> Iterator[None]:
    """Log progress to standard error. On Ctrl-C or SIGTERM, print `stopped` and exit with status 1."""
    log_to_stderr(logging.INFO)
    with _sigterm_as_interrupt():
        try:
            with _telling(stopped):
                yield
        except _ToldInterrupt:
            raise typer.Exit(FAILED) from None


class _ToldInterrupt(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, and the user has been told."""


@contextmanager
def _telling(stopped: str) -> Iterator[None]:
    try:
        yield
    except _ToldInterrupt:
        raise
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        raise _ToldInterrupt from None


def log_to_stderr(level: int) -> None:
    """Send log records to standard error."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[lines])
    for noisy in ("ray", "httpx", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def job_settings(config: str | None, index: str | None, ray: str | None) -> tuple[Settings, bool]:
    """The settings of a job, and True if it runs on Ray: with `--ray` or RAY_ADDRESS."""
    settings = Settings.load(config=config, index=index, ray_address=ray or None)
    return settings, ray is not None or bool(settings.ray_address)


@contextmanager
def open_execution(settings: Settings, command: str, *, on_ray: bool) -> "Iterator[tuple[Store, Executor]]":
    """Yield the store and an executor, on Ray or in this process, and close both afterwards.

    Raises `ConfigurationError` for a missing package.
    """
    if on_ray:
        with packages_of("all", f"'viewfinder {command}'"):
            require("ray")  # which is imported only if the job needs it
            from viewfinder.cluster.on_demand import OnDemandExecutor
            from viewfinder.cluster.session import is_ray_at_hand, join_ray, store_of
            from viewfinder.store import StoreAddress

        address = StoreAddress.of(settings)
        if is_ray_at_hand(settings, address):
            from viewfinder.cluster.executor import RayExecutor

            # Told before Ray ends: that may end this program, too.
            with join_ray(settings, address) as store, _telling(STOPPED):
                yield store, RayExecutor()
        else:
            with store_of(settings) as store, OnDemandExecutor(settings) as on_demand, _telling(STOPPED):
                yield store, on_demand
        return
    with packages_of("local", f"'viewfinder {command}'"):
        from viewfinder.cluster.session import store_of
        from viewfinder.indexing.executor import InProcessExecutor

    with store_of(settings) as store, InProcessExecutor() as executor, _telling(STOPPED):
        yield store, executor


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM, which a cluster sends to evict a job, like Ctrl-C, so that the job cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
