"""The store of a program that names no Qdrant server: a directory held by one Ray actor, which all programs share.

The actor is named, detached and on the head node. A program that starts joins the Ray of a live holder, else it
starts a Ray of its own (`start_ray`); from then on every process of that Ray reaches the store (`attach`). Without
Ray a single program opens the directory itself (`open_directory`). Good to about 20,000 pictures; then it is time for
a server.
"""

import hashlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from viewfinder.errors import (
    ConfigurationError,
    StoreBusyError,
    StoreError,
    StoreUnavailableError,
    ViewfinderError,
)
from viewfinder.store.connection import StoreAddress
from viewfinder.store.directory import (
    LOCK_WAIT_S,
    DirectoryClient,
    Holder,
    busy,
    code_version,
    open_directory,
    store_directory,
    try_lock,
)

__all__ = ["HolderClient", "RaySession", "attach", "open_directory", "start_ray"]

logger = logging.getLogger(__name__)

NAMESPACE = "viewfinder"
# Small enough that a search never waits long behind a write in the holder's single thread.
MAX_BATCH = 32
_CALL_TIMEOUT_S = 120.0
_START_WAIT_S = 90.0
_START_ATTEMPTS = 3
_REPLACE_WAIT_S = 20.0


class HolderClient:
    """A `StoreClient` through the actor that holds the directory; the next call after its death creates it again."""

    max_batch: int | None = MAX_BATCH

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._actor: Any = None

    def call(self, method: str, **arguments: Any) -> Any:
        import ray

        if not ray.is_initialized():  # or Ray would start a cluster of its own accord
            raise StoreError(
                "The embedded store is held by a Ray actor, and this process has not joined Ray (start_ray)."
            )
        if self._actor is None:
            self._actor = _get_or_create(self._data_dir)
        try:
            return ray.get(self._actor.call.remote(method, arguments), timeout=_CALL_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            self._actor = None
            raise StoreUnavailableError(
                f"The holder of the embedded store in {self._data_dir} ended during {method}."
            ) from error
        except ray.exceptions.GetTimeoutError as error:
            raise StoreUnavailableError(
                f"The embedded store in {self._data_dir} did not answer {method} within {_CALL_TIMEOUT_S:g} s."
            ) from error

    def close(self) -> None:
        self._actor = None


def attach(data_dir: Path) -> HolderClient:
    """Return a client of the embedded store for any process that has joined Ray: driver, worker, replica."""
    return HolderClient(data_dir)


@dataclass(frozen=True)
class RaySession:
    """A program's membership in a Ray; `owned` where the program started it, so that it ends with the program."""

    address: StoreAddress
    owned: bool
    joined: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Leave Ray. Of one's own Ray the holder goes first, so that the store is closed and not just killed."""
        import ray

        if self.owned and self.address.url is None and ray.is_initialized():
            _end(_get_or_create(self.address.data_dir))
        if self.joined:
            ray.shutdown()


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keep what this program does at SIGTERM: Ray would have it print its own stack and end with status 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@_keeping_sigterm()
def start_ray(
    address: StoreAddress, *, ray_address: str | None = None, lock_wait_s: float = LOCK_WAIT_S, **options: Any
) -> RaySession:
    """Join `ray_address`; else, for the embedded store, its holder's Ray; else start a Ray of our own with `options`.

    For the embedded store the holder is then running, with today's code. Raises `StoreBusyError` naming whoever keeps
    the directory for longer than `lock_wait_s`. A Ray that this process has joined already is used as it is.
    """
    import ray

    if address.url is not None:
        if ray.is_initialized():
            return RaySession(address, owned=False, joined=False)
        if ray_address:
            _check_answers(ray_address)
            ray.init(address=ray_address, namespace=NAMESPACE)
        else:
            _start_own(options)
        return RaySession(address, owned=ray_address is None, joined=True)

    directory = store_directory(address.data_dir)
    # Two programs that start at once would start two Rays, and one of them in vain.
    with _locked(
        directory / "start.lock", _START_WAIT_S, "Another viewfinder program has been starting on it for too long."
    ):
        owned, joined = False, not ray.is_initialized()
        if joined and ray_address:
            _check_answers(ray_address)
            ray.init(address=ray_address, namespace=NAMESPACE)
        elif joined and not _join_holder(directory, lock_wait_s):
            _start_own(options)
            owned = True
        session = RaySession(address, owned, joined)
        try:
            _ensure_holder(address.data_dir, lock_wait_s)
        except BaseException:
            session = RaySession(address, owned=False, joined=joined)  # there is no holder of ours to end
            session.release()
            raise
    return session


# -- The actor ------------------------------------------------------------------------------------------------------


class _HolderActor:
    """The actor. It opens the directory at the first call, so that its errors reach the caller unchanged."""

    def __init__(self, data_dir: str) -> None:
        self._data_dir = Path(data_dir)
        self._client: DirectoryClient | None = None
        self._closed = False

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        return self._opened().call(method, **arguments)

    def describe(self, wait_s: float) -> Holder:
        self._opened(wait_s)
        return Holder.here(_own_ray_address())

    def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.close()

    def _opened(self, wait_s: float = LOCK_WAIT_S) -> DirectoryClient:
        if self._closed:
            raise StoreUnavailableError("The holder of the embedded store is being replaced.")
        if self._client is None:
            self._client = open_directory(self._data_dir, wait_s=wait_s, ray_address=_own_ray_address())
        return self._client


def _get_or_create(data_dir: Path) -> Any:
    import ray

    return ray.remote(**_holder_options(data_dir))(_HolderActor).remote(str(data_dir))


def _holder_options(data_dir: Path) -> dict[str, Any]:
    return {
        # One holder for each directory; a cluster may serve several.
        "name": f"store-{hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]}",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_concurrency": 1,
        "max_restarts": -1,
        "resources": {"node:__internal_head__": 0.001},
    }


def _ensure_holder(data_dir: Path, lock_wait_s: float) -> None:
    """Have a holder with today's code, ending one made by another."""
    import ray

    deadline = time.monotonic() + lock_wait_s + _REPLACE_WAIT_S
    while time.monotonic() < deadline:
        actor = _get_or_create(data_dir)
        try:
            holder = ray.get(actor.describe.remote(lock_wait_s), timeout=_CALL_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StoreUnavailableError):
                continue
            ray.kill(actor)
            raise error.cause from None
        except ray.exceptions.RayActorError:
            time.sleep(0.2)  # one that has just been ended; its name is free in a moment
            continue
        if holder.code == code_version():
            return
        logger.info("The holder of the embedded store was made by other code (%s); replacing it.", holder)
        _end(actor)
    raise StoreUnavailableError(f"The embedded store in {data_dir} got no holder.")


def _end(actor: Any) -> None:
    import ray

    try:
        ray.get(actor.close.remote(), timeout=_CALL_TIMEOUT_S)
        ray.kill(actor)
    except ray.exceptions.RayActorError:
        logger.info("The holder of the embedded store had ended already.")


def _own_ray_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


# -- Finding the holder's Ray ----------------------------------------------------------------------------------------


def _join_holder(directory: Path, lock_wait_s: float) -> bool:
    """Join the Ray of a live holder: True; False where nobody holds the directory; else `StoreBusyError` in the end."""
    deadline = time.monotonic() + lock_wait_s
    while True:
        lock = try_lock(directory / "holder.lock")
        if lock is not None:
            lock.close()
            return False
        holder = Holder.read(directory)
        if holder is not None and _join(holder):
            return True
        if time.monotonic() > deadline:
            raise busy(directory)
        time.sleep(0.2)


def _check_answers(ray_address: str | None) -> None:
    """Raise `ConfigurationError` where nothing listens; Ray itself would go on trying for minutes."""
    host, _, port = (ray_address or "").rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # `auto`, `local`, `ray://...`: for Ray to judge
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
            # A bare ray.init() would join whatever cluster it finds on the machine.
            ray.init(address="local", namespace=NAMESPACE, **options)
            return
        except Exception as error:
            if type(error) is not Exception:  # Ray has no class of its own for a node that does not come up in time
                raise
            # Ray gives its daemons half a minute, which on a busy machine may not do.
            if not left:
                raise ViewfinderError(
                    f"Ray did not start on this machine: {error} Try again when the machine is less busy, or name a "
                    "running cluster in RAY_ADDRESS."
                ) from error


def _join(holder: Holder) -> bool:
    import ray

    if holder.ray_address is None or holder.host != socket.gethostname():
        return False
    host, _, port = holder.ray_address.rpartition(":")
    try:
        # Ray itself would look for an address that is gone for half a minute.
        socket.create_connection((host, int(port)), timeout=2).close()
        ray.init(address=holder.ray_address, namespace=NAMESPACE)
    except (OSError, RuntimeError) as error:
        logger.info("The holder of the embedded store cannot be joined (%s): %s", holder, error)
        return False
    return True


@contextmanager
def _locked(path: Path, wait_s: float, complaint: str) -> Iterator[None]:
    deadline = time.monotonic() + wait_s
    while (lock := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise StoreBusyError(f"The embedded store in {path.parent} is busy. {complaint}")
        time.sleep(0.2)
    with lock:
        yield
