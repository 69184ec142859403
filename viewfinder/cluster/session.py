"""Connect a program to Ray: to the cluster it was submitted to, to the store holder's Ray, or to a new one."""

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
from viewfinder.models.cpu import cpu_cores
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
    elif _needs_ray(store_directory(address.data_dir)):
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
    `lock_wait_s`.
    """
    import ray

    ray_address = None if ray_address == LOCAL else ray_address

    # Ray warns at every start that it authenticates with a token.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if address.url is not None:
        if ray.is_initialized():
            return RaySession(address, owned=False, joined=False)
        if ray_address:
            _check_answers(ray_address)
            ray.init(address=ray_address, namespace=NAMESPACE, **_QUIET)
        else:
            _start_own(options)
        return RaySession(address, owned=ray_address is None, joined=True)

    directory = store_directory(address.data_dir)
    # Two programs that start at the same time would start two Rays, and one of them would be useless.
    with _locked(directory / "start.lock", _START_WAIT_S, "Another viewfinder program is still starting on it."):
        owned, joined = False, not ray.is_initialized()
        if joined and ray_address:
            _check_answers(ray_address)
            ray.init(address=ray_address, namespace=NAMESPACE, **_QUIET)
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


def _check_answers(ray_address: str | None) -> None:
    """Raise `ConfigurationError` if nothing listens there; Ray itself would retry for minutes."""
    host, _, port = (ray_address or "").rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # `auto`, `local`, `ray://...`: left to Ray
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigurationError(
            f"RAY_ADDRESS: no Ray cluster answers at {ray_address!r} ({error}). Start one with 'ray start --head', or "
            "unset RAY_ADDRESS to run on this machine."
        ) from error


def _start_own(options: Mapping[str, Any]) -> None:
    import ray

    for left in reversed(range(_START_ATTEMPTS)):
        try:
            # Without an address, ray.init() would join any cluster that it finds on the machine.
            ray.init(address=LOCAL, namespace=NAMESPACE, **{**_QUIET, **options})
            return
        except Exception as error:
            if type(error) is not Exception:  # Ray raises a bare Exception if a node does not start in time
                raise
            # Ray waits half a minute for its daemons, which is too short on a busy machine.
            if not left:
                raise ViewfinderError(
                    f"Ray did not start on this machine: {error} Try again when the machine is less busy, or name a "
                    "running cluster in RAY_ADDRESS."
                ) from error


def _join_ray_of_holder(holder: Holder) -> bool:
    import ray

    if holder.ray_address is None or holder.host != socket.gethostname():
        return False
    host, _, port = holder.ray_address.rpartition(":")
    try:
        # Ray itself would try a dead address for half a minute.
        socket.create_connection((host, int(port)), timeout=2).close()
        _enable_token()
        environment = {"worker_process_setup_hook": _adopting_own_access()}
        ray.init(address=holder.ray_address, namespace=NAMESPACE, runtime_env=environment, **_QUIET)
    except (OSError, RuntimeError) as error:
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
