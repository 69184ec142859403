"""The embedded store, used without a Qdrant server: one Ray actor holds its directory for all programs.

The actor is named, detached and on the head node of a Ray (`viewfinder.cluster.session` starts or joins it); every
process of that Ray reaches the store with `attach`. While a program without Ray holds the directory, the actor sends
its calls to that program, and takes over when it ends.
"""

import hashlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.store.directory import (
    LOCK_WAIT_S,
    MAX_POINTS_PER_CALL,
    Holder,
    SharedClient,
    code_version,
)

logger = logging.getLogger(__name__)

NAMESPACE = "viewfinder"
_CALL_TIMEOUT_S = 120.0
_REPLACE_WAIT_S = 20.0
# Calls that wait in the actor, where a search passes those of a batch; further ones wait in the order they came in.
_MAX_CALLS = 64


class HolderClient:
    """A `StoreClient` through the actor that holds the directory; a call after its death starts it again."""

    max_batch: int | None = MAX_POINTS_PER_CALL

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._actor: Any = None

    def call(self, method: str, **arguments: Any) -> Any:
        import ray

        if not ray.is_initialized():  # otherwise Ray would start a cluster
            raise StoreError("The embedded store is held by a Ray actor, and this process has not joined Ray.")
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


# -- The actor ------------------------------------------------------------------------------------------------------


class _HolderActor:
    """The actor. It opens the directory at the first call, so that its errors reach the caller unchanged."""

    def __init__(self, data_dir: str) -> None:
        self._data_dir = Path(data_dir)
        self._client: SharedClient | None = None
        self._closed = False
        self._lock = threading.Lock()

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        return self._open_client().call(method, **arguments)

    def describe(self, wait_s: float) -> Holder:
        self._open_client(wait_s)
        return Holder.here(_own_ray_address())

    def close(self) -> None:
        with self._lock:
            self._closed = True
        if self._client is not None:
            self._client.close()

    def _open_client(self, wait_s: float = LOCK_WAIT_S) -> SharedClient:
        with self._lock:
            if self._closed:
                raise StoreUnavailableError("The holder of the embedded store is being replaced.")
            if self._client is None:
                self._client = SharedClient(self._data_dir, wait_s=wait_s, ray_address=_own_ray_address())
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
        "max_concurrency": _MAX_CALLS,
        "max_restarts": -1,
        "resources": {"node:__internal_head__": 0.001},
    }


def ensure_holder(data_dir: Path, lock_wait_s: float) -> None:
    """Start the holder if there is none, and replace one that runs another version of the code.

    Raises `StoreBusyError` if another process still holds the directory after `lock_wait_s`.
    """
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
            time.sleep(0.2)  # it has just ended; Ray frees its name in a moment
            continue
        if holder.code == code_version():
            return
        logger.info("The holder of the embedded store runs another version of the code (%s); replacing it.", holder)
        _end(actor)
    raise StoreUnavailableError(f"No holder could be started for the embedded store in {data_dir}.")


def close_holder(data_dir: Path) -> None:
    """Close the store and end its holder."""
    _end(_get_or_create(data_dir))


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
