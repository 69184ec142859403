"""A store on Qdrant's engine in this process, for tests of what stands above the store.

`viewfinder.store.open_local` starts a process for each collection and makes 17 indexes, which takes most of the time of
a small test.
"""

import threading
from pathlib import Path
from typing import Any

from viewfinder.store import Store, StoreAddress
from viewfinder.store.directory import answer_of
from viewfinder.store.engine_client import EngineClient
from viewfinder.testing.lazy_engine import LazyEngine


class MemoryClient:
    """A `StoreClient` that answers from `LazyEngine`, one call at a time. Nothing is kept when it is closed."""

    max_batch: int | None = None

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._engine = LazyEngine(directory, durable=False)
        self._client = EngineClient(self._engine)
        self._lock = threading.Lock()

    def call(self, method: str, **arguments: Any) -> Any:
        """Return the result of `QdrantClient.<method>(**arguments)`."""
        with self._lock:
            return answer_of(self._client.call, self._directory, method, arguments)

    def close(self) -> None:
        """Close the collections."""
        with self._lock:
            self._engine.close()


def open_in_memory(directory: Path) -> Store:
    """Open an empty store. Its files are in `directory`."""
    address = StoreAddress(data_dir=directory)
    return Store(MemoryClient(directory / "qdrant"), address)
