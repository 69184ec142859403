"""The simulated stores: the embedded one in memory, and a server with faults in front of the embedded engine."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from qdrant_client.http.models import QueryResponse

from tests.simulation.objects import take_fault
from tests.simulation.scheduler import Scheduler, Task
from viewfinder.backoff import Backoff
from viewfinder.edge.engine import Engine
from viewfinder.edge.refusal import Refusal
from viewfinder.store import Store, StoreAddress
from viewfinder.store.directory import answer_of
from viewfinder.store.engine_client import EngineClient
from viewfinder.store.schema import PAYLOAD_INDEXES
from viewfinder.store.server import ServerClient

# Status and text of each fault.
REFUSALS = {
    "timeout_408": (408, "Timeout error: Operation timed out"),
    "rate_429": (429, "Rate limiting exceeded"),
    "unavailable_503": (503, "Service Unavailable"),
    "consensus_500": (500, "Service internal error: Waiting for consensus operation commit failed. Please retry"),
    "replica_500": (500, "Service internal error: failed to apply operation to at least one `Active` replica"),
}
FAULTS = (*REFUSALS, "no_answer", "lost_answer")
_SEARCH = "query_batch_points"  # changes nothing, and a check sends 120 of them: no step
_READS = (
    _SEARCH,
    "query_points",
    "scroll",
    "count",
    "retrieve",
    "get_collection",
    "get_collections",
    "get_aliases",
    "info",
)
_CONTROL = "__control"
_LAG = 20  # steps until a write reaches the other replica
_SLOW = 200  # steps until the slow shard applies a write: more than the end of a run takes
_ANY_POINT = ("set_payload", "delete")  # in whichever shard it is
_STRUCTURE = ("create_collection", "delete_collection", "update_collection_aliases")


class Database:
    """The collections of one index. It notes with each task the points that it deleted and its changes of collections.

    On a server the control collection has two replicas, and each program talks to one of them. A conditional write
    without an ordering is decided on that one, and later once more on the other. The other collections have two shards,
    one of them slow (`_Shards`). An update that waits returns when all active replicas
    have it, so that these never differ.
    """

    def __init__(self, scheduler: Scheduler, directory: Path, *, replicated: bool = False) -> None:
        self.local = SimulatedEngine(directory / "first")
        self.shards = _Shards(self.local, scheduler, slow=replicated)
        self._replicas = [self.local, SimulatedEngine(directory / "second")] if replicated else [self.local]
        self._pending: list[tuple[int, SimulatedEngine, str, dict[str, Any]]] = []
        self.scheduler = scheduler
        self._searches: dict[Any, Any] = {}

    def close(self) -> None:
        """Close the engines."""
        for each in self._replicas:
            each.close()

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Carry out one call of a client."""
        name = arguments.get("collection_name", "")
        if name.endswith(_CONTROL):
            return self._call_control(method, arguments)
        key = None
        if method == _SEARCH:
            arguments["requests"] = [each.model_copy(update={"params": None}) for each in arguments["requests"]]
            # The check of search times repeats each search many times.
            key = (name, *(each.model_dump_json() for each in arguments["requests"]))
            if key in self._searches:
                return self._searches[key]
        elif method not in _READS:
            self._searches.clear()
            self._note(method, name, arguments)
        is_live = name and name == self.local.aliases.get("images") and method not in _READS and key is None
        if self.shards.catch_up(method, arguments):
            self._searches.clear()
        before = self._numbers(name) if is_live else {}
        answer = self.shards.call(method, arguments)
        self._note_lost(name, before)
        if key is not None:
            self._searches[key] = answer
        return answer

    def _call_control(self, method: str, arguments: dict[str, Any]) -> Any:
        ordered = arguments.pop("ordering", None) not in (None, models.WriteOrdering.WEAK)
        for pending in [each for each in self._pending if each[0] <= self.scheduler.steps]:
            self._pending.remove(pending)
            pending[1].call(pending[2], **pending[3])
        task = self.scheduler.task
        first = self._replicas[(task.place if task else 0) % len(self._replicas)]
        others = [each for each in self._replicas if each is not first]
        answer = first.call(method, **arguments)
        for other in () if method in _READS else others:
            if arguments.get("update_mode") and not ordered:
                self._pending.append((self.scheduler.steps + _LAG, other, method, arguments))
            else:
                other.call(method, **arguments)
        return answer

    def _note(self, method: str, name: str, arguments: dict[str, Any]) -> None:
        task = self.scheduler.task
        if task is None:
            return
        if method in _STRUCTURE:
            task.seen.setdefault("structure", []).append(self.scheduler.steps)
        if method == "update_collection_aliases":
            task.seen["switched"] = True

    def _numbers(self, name: str) -> dict[Any, int]:
        """Return the numbers of the contents from which the points of a collection were made, by id."""
        if not self.local.exists(name):
            return {}
        records, _ = self.local.call("scroll", collection_name=name, limit=1000, with_payload=["width"])
        return {each.id: each.payload["width"] for each in records}

    def _note_lost(self, name: str, before: dict[Any, int]) -> None:
        """Note the points that the call has deleted, and the contents that it has replaced."""
        task = self.scheduler.task
        if not before or task is None:
            return
        after = self._numbers(name)
        if gone := before.keys() - after.keys():
            task.seen.setdefault("deleted", {}).setdefault(name, [len(before), set()])[1].update(gone)
        lost = [(each, number, self.scheduler.steps) for each, number in before.items() if after.get(each) != number]
        task.seen.setdefault("lost", []).extend(lost)


class SimulatedEngine:
    """The engine in memory, without write-ahead logs and payload indexes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._engine = Engine(directory, durable=False)
        self._client = EngineClient(self._engine)

    @property
    def aliases(self) -> dict[str, str]:
        """The collections by alias; a change that is refused makes another dictionary of them."""
        return self._engine.registry.aliases

    @property
    def collections(self) -> list[str]:
        """The names of the collections."""
        return list(self._engine.registry.collections)

    def exists(self, name: str) -> bool:
        """Return True for a collection."""
        return name in self._engine.registry.collections

    def call(self, method: str, **arguments: Any) -> Any:
        """Return the result of a method of `QdrantClient`; raise `Refusal`."""
        if isinstance(arguments.get("query"), models.SampleQuery):
            return self._sample(**arguments)
        answer = self._client.call(method, **arguments)
        if method == "get_collection":  # as if it had them
            answer.payload_schema = dict.fromkeys(PAYLOAD_INDEXES)
        return answer

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _sample(self, limit: int, **arguments: Any) -> QueryResponse:
        """Draw points by the seed of the history, as the engine cannot."""
        found = self._client.call("query_points", limit=1000, **arguments)
        points = sorted(found.points, key=lambda point: point.id)
        return QueryResponse.model_construct(points=random.sample(points, min(limit, len(points))))


class _Shards:
    """Two shards. If `slow`, the second one applies writes that do not wait after a while.

    A shard applies writes in their order: one that waits comes after all before it.
    """

    def __init__(self, local: SimulatedEngine, scheduler: Scheduler, *, slow: bool) -> None:
        self._local = local
        self._scheduler = scheduler
        self._slow = slow
        # Inserts of the second shard: when they are applied, their arguments, and whose they are.
        self._pending: list[tuple[int, dict[str, Any], Task | None]] = []

    def catch_up(self, method: str, arguments: Mapping[str, Any]) -> bool:
        """Apply the pending inserts that are due, or all of them before a call that must come after them.

        Returns True if there were any.
        """
        before = len(self._pending)
        of_slow = self._of_slow(arguments) if method == "upsert" else method in _ANY_POINT
        waits = of_slow and (method in _ANY_POINT or arguments.get("wait", True))
        while self._pending and (waits or self._pending[0][0] <= self._scheduler.steps):
            self._insert(self._pending.pop(0)[1])
        return len(self._pending) < before

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Carry out a call, or a part of it later."""
        later = self._of_slow(arguments) if method == "upsert" and not arguments.get("wait", True) else []
        if not later:
            return self._local.call(method, **arguments)
        self._pending.append((self._scheduler.steps + _SLOW, _part(arguments, later), self._scheduler.task))
        rest = [row for row in range(len(arguments["points"].ids)) if row not in later]
        return self._local.call("upsert", **_part(arguments, rest)) if rest else None

    def is_behind(self, task: Task) -> bool:
        """Return True if points that this task has inserted are not there. Another run may have inserted them."""
        return any(each is task and self._adds(arguments) for _, arguments, each in self._pending)

    def _adds(self, arguments: Mapping[str, Any]) -> bool:
        name, ids = arguments["collection_name"], arguments["points"].ids
        return self._local.exists(name) and len(self._local.call("retrieve", collection_name=name, ids=ids)) < len(ids)

    def settle(self) -> None:
        """Apply all pending inserts."""
        while self._pending:
            self._insert(self._pending.pop(0)[1])

    def _insert(self, arguments: dict[str, Any]) -> None:
        if self._local.exists(arguments["collection_name"]):  # else dropped since
            self._local.call("upsert", **arguments)

    def _of_slow(self, arguments: Mapping[str, Any]) -> list[int]:
        """The rows of an upsert whose points are in the slow shard."""
        ids = arguments["points"].ids if self._slow else []
        return [row for row, each in enumerate(ids) if int(each[-1], 16) % 2]


def _part(arguments: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    batch = arguments["points"]
    columns = {name: [cells[row] for row in rows] for name, cells in batch.vectors.items()}
    chosen = models.Batch(
        ids=[batch.ids[row] for row in rows], vectors=columns, payloads=[batch.payloads[row] for row in rows]
    )
    return {**arguments, "points": chosen}


class EmbeddedClient:
    """The embedded store without a directory."""

    max_batch: int | None = None

    def __init__(self, database: Database) -> None:
        self._database = database

    def call(self, method: str, **arguments: Any) -> Any:
        if method != _SEARCH:
            self._database.scheduler.step(changes=method not in _READS)
        if method == "create_payload_index":
            return None
        return answer_of(self._answer, Path("memory"), method, arguments)

    def close(self) -> None:
        """The database stays."""

    def _answer(self, method: str, **arguments: Any) -> Any:
        return self._database.call(method, arguments)


class SimulatedServer(ServerClient):
    """`ServerClient` whose requests are answered by the engine, and sometimes by a fault."""

    def __init__(self, database: Database, address: StoreAddress) -> None:
        self._address = address
        self._timeout_s = address.timeout_s
        self._rest: Any = _Requests(database)
        self._grpc = None


class _Requests:
    """The methods of `QdrantClient`, raising the exceptions that it raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda **arguments: self._request(method, arguments)

    def close(self) -> None:
        """Nothing to close."""

    def _request(self, method: str, arguments: dict[str, Any]) -> Any:
        database = self._database
        if method == _SEARCH:
            return self._answer(method, arguments)
        database.scheduler.step(changes=method not in _READS)
        fault = take_fault(database.scheduler, FAULTS.__contains__)
        if fault in REFUSALS:
            raise _response(*REFUSALS[fault])
        if fault == "no_answer":
            raise ResponseHandlingException(httpx.ConnectError("connection refused"))
        answer = self._answer(method, arguments)
        if fault == "lost_answer":
            raise ResponseHandlingException(httpx.ReadTimeout("timed out"))
        return answer

    def _answer(self, method: str, arguments: dict[str, Any]) -> Any:
        for option in ("timeout", "consistency"):
            arguments.pop(option, None)
        if not str(arguments.get("collection_name")).endswith(_CONTROL):
            arguments.pop("ordering", None)
        if method == "info":
            return SimpleNamespace(title="qdrant - vector search engine", version="1.20.0")
        if method == "get_optimizations":
            return SimpleNamespace(running=[], summary=SimpleNamespace(queued_optimizations=0))
        if method == "create_payload_index":
            return None
        try:
            return self._database.call(method, arguments)
        except Refusal as refused:
            raise _response(refused.status, refused.message) from refused


class SimulatedStore(Store):
    """A store whose check needs no network."""

    def check(self) -> str:
        return "1.20.0"


def open_store(database: Database, address: StoreAddress) -> Store:
    """Open the store as one program does."""
    scheduler = database.scheduler
    retry = Backoff(120.0, clock=scheduler.monotonic, sleep=scheduler.sleep, draw=lambda low, high: high / 2)
    client = EmbeddedClient(database) if address.url is None else SimulatedServer(database, address)
    return SimulatedStore(client, address, retry)


def _response(status: int, text: str) -> UnexpectedResponse:
    return UnexpectedResponse(status, text, json.dumps({"status": {"error": text}}).encode(), httpx.Headers())
