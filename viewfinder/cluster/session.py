"""Connect a program to Ray: to the cluster it was submitted to, to the store holder's Ray, or to a new one."""

import importlib.util
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from viewfinder.cluster.resources import CORES_RESOURCE
from viewfinder.errors import ConfigurationError, StoreBusyError, ViewfinderError
from viewfinder.extras import install
from viewfinder.models.cpu import cpu_cores
from viewfinder.ray_directory import ray_directory
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect, open_shared
from viewfinder.store.directory import LOCK_WAIT_S, Holder, busy_error, store_directory, try_lock
from viewfinder.store.embedded import NAMESPACE, close_holder, ensure_holder

logger = logging.getLogger(__name__)

# A pipeline of several stages starves on two logical CPUs: other workers need room beside one decoder per core.
MINIMUM_CPUS, CPUS_BESIDE_DECODERS = 4, 2
# Spot GPUs can take longer to arrive than Ray Data's 30 minutes.
NO_PROGRESS_TIMEOUT_S = 4 * 3600
_START_WAIT_S = 90.0
_START_ATTEMPTS = 3
# Variables that decide how a worker reaches objects and model weights: `AWS_PROFILE`, `HF_TOKEN`, `https_proxy`.
_ACCESS_VARIABLE = re.compile(r"(AWS|HF|SSL_CERT)_.*|.*_(PROXY|CA_BUNDLE)", re.IGNORECASE)
_ANSWER_TIMEOUT_S = 5.0
# Clusters answer it with a frame of bytes, other servers with a text: the dashboard with 'HTTP/1.0 400 Bad Request'.
_HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_JOIN_ADVICE = "Start one with 'ray start --head', or unset RAY_ADDRESS to run on this machine."
# The address of a new Ray on this machine.
LOCAL = "local"
# Ray prints INFO lines on standard error unless it is told not to.
_QUIET: Mapping[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}


@contextmanager
def join_ray(settings: Settings, address: StoreAddress) -> Iterator[Store]:
    """Join or start Ray for a job; yields the store as the driver sees it."""
    with ray_of_job(settings, address), connect(address) as store:
        yield store


@contextmanager
def ray_of_job(settings: Settings, address: StoreAddress, *, with_holder: bool = True) -> "Iterator[RaySession]":
    """Join or start a Ray with what a job needs, during the block. `with_holder` as in `start_ray`."""
    # Ray's core logs an error for every actor pool whose arguments are in the object store.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cores = cpu_cores()
    with start_ray(
        address,
        ray_address=settings.ray_address,
        num_cpus=max(MINIMUM_CPUS, cores + CPUS_BESIDE_DECODERS),
        resources={CORES_RESOURCE: cores},
        include_dashboard=False,
        with_holder=with_holder,
    ) as session:
        configure_ray_data()
        yield session


def is_ray_at_hand(settings: Settings, address: StoreAddress) -> bool:
    """True if a job joins a Ray before anything else: a named one, this process's own, or the only way to the store."""
    ray = sys.modules.get("ray")
    if settings.ray_address not in (None, LOCAL) or (ray is not None and ray.is_initialized()):
        return True
    return address.url is None and _needs_ray(store_directory(address.data_dir))


@contextmanager
def store_of(settings: Settings) -> Iterator[Store]:
    """The store that the settings name: a server, else the own directory, else through the program that holds it."""
    address = StoreAddress.of(settings)
    if address.url is not None:
        with connect(address) as store:
            store.check()  # a person waits, so an unreachable server is reported now, not after minutes of retries
            yield store
    elif _needs_ray(directory := store_directory(address.data_dir)):
        if importlib.util.find_spec("ray") is None:
            raise StoreBusyError(f"{busy_error(directory)} To reach it through that Ray: {install('all')}.")
        with start_ray(address, ray_address=settings.ray_address), connect(address) as store:
            yield store
    else:
        with open_shared(address) as store:
            yield store


def _needs_ray(directory: Path) -> bool:
    """True if only the holder's Ray leads to it: it is on another machine, or made by other code."""
    lock = try_lock(directory / "holder.lock")
    if lock is not None:
        lock.close()
        return False
    holder = Holder.read(directory)
    return holder is not None and holder.ray_address is not None and not holder.answers_here


def configure_ray_data() -> None:
    """Fail on the first lost block, tolerate a few lost actors, wait for slow clusters, and log nothing."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.max_errored_blocks = 0
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.enable_progress_bars = False
    context.enable_auto_log_stats = False
    # Ray Data logs the traceback of every failed run; our one message says what failed and what to do.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # A small manifest needs fewer tasks than its pool allows.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks", category=UserWarning)


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray. If `owned`, this program started that Ray, with the holder if `holds`, and ends both."""

    address: StoreAddress
    owned: bool
    joined: bool
    holds: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Leave Ray, or end a Ray that this program started: its holder first, so that the store is closed cleanly."""
        import ray

        if self.owned and self.holds and ray.is_initialized():
            close_holder(self.address.data_dir)
        if self.joined:
            ray.shutdown()


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Restore the SIGTERM handler afterwards: Ray's own prints a stack trace and exits with status 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@_keeping_sigterm()
def start_ray(
    address: StoreAddress,
    *,
    ray_address: str | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
    with_holder: bool = True,
    **options: Any,
) -> RaySession:
    """Join `ray_address`, or the Ray of the embedded store's holder, or start a new Ray with `options`.

    For the embedded store, a holder with this program's code is started if none runs; not on a new Ray without
    `with_holder`, where this program holds the store. A Ray that this process has already joined is used as it is.
    Raises `StoreBusyError`, which names the holder, if another process holds the directory for longer than
    `lock_wait_s`, `ConfigurationError` if `ray_address` cannot be joined, and `ViewfinderError` if no Ray starts here.
    """
    import ray

    ray_address = None if ray_address == LOCAL else ray_address

    # Ray warns at every start that it authenticates with a token.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if address.url is not None:
        if ray.is_initialized():
            return RaySession(address, owned=False, joined=False)
        if ray_address:
            _join(ray_address)
        else:
            _start_own(options)
        return RaySession(address, owned=ray_address is None, joined=True)

    directory = store_directory(address.data_dir)
    # Two programs that start at the same time would start two Rays, and one of them would be useless.
    with _locked(directory / "start.lock", _START_WAIT_S, "Another viewfinder program is still starting on it."):
        owned, joined = False, not ray.is_initialized()
        if joined and ray_address:
            _join(ray_address)
        elif joined and not _join_holder(directory, lock_wait_s):
            _start_own(options)
            owned = True
        session = RaySession(address, owned, joined, holds=with_holder)
        if owned and not with_holder:
            return session
        try:
            ensure_holder(address.data_dir, lock_wait_s)
        except BaseException:
            session = RaySession(address, owned=False, joined=joined)  # it has no holder to close
            session.release()
            raise
    return session


def _join_holder(directory: Path, lock_wait_s: float) -> bool:
    """Join the Ray of the running holder; return False if there is none, or if it answers without a Ray.

    Raises `StoreBusyError` if joining fails.
    """
    deadline = time.monotonic() + lock_wait_s
    while True:
        lock = try_lock(directory / "holder.lock")
        if lock is not None:
            lock.close()
            return False
        holder = Holder.read(directory)
        if holder is not None and holder.ray_address is None and holder.answers_here:
            return False
        if holder is not None and _join_ray_of_holder(holder):
            return True
        if time.monotonic() > deadline:
            raise busy_error(directory)
        time.sleep(0.2)


def _join(ray_address: str) -> None:
    """Join a cluster; raise `ConfigurationError` if that is not possible."""
    _check_answers(ray_address)
    try:
        _init(address=ray_address)
    except _NotStartedError as error:
        raise ConfigurationError(
            f"RAY_ADDRESS: the Ray cluster at {ray_address!r} cannot be joined: {error} It must run the same versions "
            "of Ray and Python as this program, and may need its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH). "
            f"{_JOIN_ADVICE}"
        ) from error


def _check_answers(ray_address: str) -> None:
    """Raise `ConfigurationError` if no cluster can be there: nothing listens, or it answers with a text.

    Ray itself would try for minutes.
    """
    host, _, port = ray_address.rpartition(":")
    if not host or not port.isdecimal():  # `auto`: left to Ray
        return
    answer = b""
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIMEOUT_S) as connection,
            suppress(TimeoutError, ConnectionError),  # with TLS it does not answer this, or ends the connection
        ):
            connection.sendall(_HTTP_2_PREFACE)
            answer = connection.recv(5)
    except OSError as error:
        raise ConfigurationError(
            f"RAY_ADDRESS: no Ray cluster answers at {ray_address!r} ({error}). {_JOIN_ADVICE}"
        ) from error
    if answer and answer.decode("latin-1").isprintable():
        raise ConfigurationError(
            f"RAY_ADDRESS: no Ray cluster answers at {ray_address!r}, but another program, such as the cluster's "
            f"dashboard. The cluster has another port: {host}:6379 if it was started with the default one."
        )


def _start_own(options: Mapping[str, Any]) -> None:
    """Start a Ray on this machine; raise `ViewfinderError` if it does not start."""
    for left in reversed(range(_START_ATTEMPTS)):
        try:
            # Without an address, ray.init() would join any cluster that it finds on the machine.
            _init(address=LOCAL, **options)
            return
        except _NotStartedError as error:
            # Ray waits half a minute for its daemons, which is too short on a busy machine.
            if error.may_pass and left:
                continue
            raise ViewfinderError(f"Ray did not start on this machine: {error} {error.advice}") from error


class _NotStartedError(Exception):
    """Ray could not be started or joined; `may_pass` if the machine was too busy."""

    def __init__(self, error: Exception) -> None:
        # Some messages have several lines, such as those about versions.
        super().__init__(f"{' '.join(str(error).split()).rstrip('.') or type(error).__name__}.")
        self.may_pass = type(error) is Exception  # as Ray raises if a node does not start in time
        self.advice = _start_advice(error)


def _init(**options: Any) -> None:
    """Call `ray.init`; raise `_NotStartedError` for every error of it that is not one of this program."""
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(namespace=NAMESPACE, **{**_QUIET, **options})
    except Exception as error:
        if isinstance(error, (OSError, RuntimeError, ValueError, RayError)) or type(error) is Exception:
            raise _NotStartedError(error) from error
        raise


def _start_advice(error: Exception) -> str:
    """Return what to do if Ray does not start on this machine."""
    if "AF_UNIX" in str(error):
        return f"Its sockets lie in {ray_directory()}: set RAY_TMPDIR to a directory with a shorter path, such as /tmp."
    of_home = isinstance(error, OSError) and ".ray" in Path(str(error.filename)).parts
    if of_home or "home directory" in str(error):
        return (
            "Ray keeps the token of its clusters in ~/.ray: set HOME to a directory that can be written, or "
            "RAY_AUTH_TOKEN_PATH to a file with a token."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"Its files lie in {ray_directory()}: make it writable, or set RAY_TMPDIR to another directory."
    return "Try again when the machine is less busy, or name a running cluster in RAY_ADDRESS."


def _join_ray_of_holder(holder: Holder) -> bool:
    if holder.ray_address is None or holder.host != socket.gethostname():
        return False
    host, _, port = holder.ray_address.rpartition(":")
    try:
        # Ray itself would try a dead address for half a minute.
        socket.create_connection((host, int(port)), timeout=2).close()
        _enable_token()
        _init(address=holder.ray_address, runtime_env={"worker_process_setup_hook": _adopting_own_access()})
    except (OSError, _NotStartedError) as error:
        logger.info("The holder of the embedded store cannot be joined (%s): %s", holder, error)
        return False
    return True


def _adopting_own_access() -> Callable[[], None]:
    """Return a function that gives a worker this program's access variables.

    Workers inherit the environment of the program that started Ray, and so its credentials.
    """
    own = {name: value for name, value in os.environ.items() if _ACCESS_VARIABLE.fullmatch(name)}

    def adopt_access() -> None:
        for name in [name for name in os.environ if _ACCESS_VARIABLE.fullmatch(name)]:
            del os.environ[name]
        os.environ.update(own)

    return adopt_access


def _enable_token() -> None:
    """Authenticate to the holder's Ray with this user's token, if there is one and RAY_AUTH_MODE is unset.

    Ray 2.60 enables its token for a Ray that it starts, but not when it joins one by address.
    """
    with suppress(ImportError):  # older versions have no tokens; there is no public function
        from ray._private.authentication import authentication_token_setup as setup

        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


@contextmanager
def _locked(path: Path, wait_s: float, advice: str) -> Iterator[None]:
    deadline = time.monotonic() + wait_s
    while (lock := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise StoreBusyError(f"The embedded store in {path.parent} is busy. {advice}")
        time.sleep(0.2)
    with lock:
        yield
