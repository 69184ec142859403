"""The nodes of a Qdrant cluster in which every node has a replica of every collection.

Writes with weak ordering, the default, reach the replicas in any order: each node writes to its own replica first and
then to the others, so two writes at a time leave replicas that disagree. Writes with medium or strong ordering go
through one leader.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from viewfinder.edge.engine import Engine
from viewfinder.edge.templates import remove_left
from viewfinder.testing.lazy_engine import LazyEngine

MEMORY, PREFIX = Path("/dev/shm"), "viewfinder-double-"
# How long a write with weak ordering waits for another one to cross it.
_CROSSING_S = 0.2


def temporary_directory() -> "tempfile.TemporaryDirectory[str]":
    """Return a directory in memory, where the engine makes a collection in a tenth of the time."""
    remove_left(MEMORY, PREFIX)
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY if MEMORY.is_dir() else None)


class NodeDownError(Exception):
    """A request that needs a node that is down; its text is that of status 500."""


class Replicas:
    """The stores of `count` nodes. A node in `down` misses all writes."""

    def __init__(self, count: int, path: Path | None) -> None:
        self._temporary = temporary_directory()
        folders = [Path(self._temporary.name, str(node)) if path is None else path for node in range(count)]
        for each in folders:
            each.mkdir(exist_ok=True)
        self.stores = [LazyEngine(each, durable=path is not None) for each in folders]
        self._locks = [threading.Lock() for _ in self.stores]
        self._ordered = threading.Lock()
        self._crossing = threading.Barrier(2)
        self.down: set[int] = set()
        self._leader = 0

    def read(self, node: int, operation: Callable[[Engine], Any], query: Mapping[str, str]) -> Any:
        """Return the result of a read on the replica of the node that was asked."""
        if self.down and query.get("consistency") in ("all", "majority", "quorum"):
            raise NodeDownError(
                "Service internal error: 1 of 3 read operations failed: Tonic status error: Unavailable"
            )
        return self._on(node, operation)

    def write(self, node: int, operation: Callable[[Engine], Any], query: Mapping[str, str], *, meets: bool) -> Any:
        """Return the result of a write. A conditional one (`meets`) crosses another if one comes at the same time."""
        if query.get("ordering", "weak") == "weak":
            result = self._on(node, operation)
            if meets and len(self.stores) > 1:
                self._meet()
            for other in self._others(node):
                self._on(other, operation)
            return result
        with self._ordered:
            self._lead(query["ordering"])
            result = self._on(self._leader, operation)
            for other in self._others(self._leader):
                self._on(other, operation)
            return result

    def agree(self, operation: Callable[[Engine], Any]) -> Any:
        """Return the result of an operation on which the consensus agrees: on collections, aliases and indexes."""
        with self._ordered:
            results = [self._on(node, operation) for node in range(len(self.stores)) if node not in self.down]
            return results[0]

    def close(self) -> None:
        """Close the stores."""
        for store in self.stores:
            store.close()
        self._temporary.cleanup()

    def _lead(self, ordering: str) -> None:
        """Choose another leader if its node is down, which fails the write that finds out."""
        if self._leader not in self.down:
            return
        failed = f"Failed to apply update with {ordering.capitalize()} ordering via leader peer {self._leader}"
        if ordering == "medium":
            self._leader = next(node for node in range(len(self.stores)) if node not in self.down)
        raise NodeDownError(f"Service internal error: {failed}: Tonic status error: Unavailable")

    def _on(self, node: int, operation: Callable[[Engine], Any]) -> Any:
        with self._locks[node]:
            return operation(self.stores[node])

    def _others(self, node: int) -> list[int]:
        return [each for each in range(len(self.stores)) if each != node and each not in self.down]

    def _meet(self) -> None:
        """Wait until another write has been applied to the replica of its own node."""
        try:
            self._crossing.wait(_CROSSING_S)
        except threading.BrokenBarrierError:
            self._crossing.reset()
