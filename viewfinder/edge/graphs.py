"""The graphs of an engine's collections, built in the background when enough points have none."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from viewfinder.edge.builder import BuilderProcess
from viewfinder.edge.collection import OpenCollection, OpenShard
from viewfinder.edge.process import ShardProcess
from viewfinder.edge.refusal import Refusal
from viewfinder.edge.strays import delete, doom, spare
from viewfinder.edge.templates import ShardPlace
from viewfinder.errors import StoreError

logger = logging.getLogger(__name__)

THRESHOLD_KB = 20_000
"""Vectors without a graph, above which one is built; a search compares with all of them in 2 ms. Qdrant's default."""
QUIET_S = 5.0
"""Graphs are built when in so many seconds few points were added, so that a run does not build them again and again."""
# Few are this share of the points without a graph.
_FEW = 0.05
# A graph is built again for this share of further points.
_SHARE = 0.1
_POLL_S = 0.5
_FIRST_RETRY_S, _LAST_RETRY_S = 60.0, 3600.0
# Searches of a new shard before it takes over. The first ones read its files, and take 100 ms at 200,000 points.
_WARMING = 50
_RESCORED = {"quantization": {"rescore": True, "oversampling": 2.0}}


@dataclass(frozen=True)
class GraphNeeds:
    """An open collection with the place of its shard. `threshold_kb` 0 means that it gets no graphs.

    `noted` is the number of points without a graph that is on disk.
    """

    collection: OpenCollection
    place: ShardPlace
    graph_points: int
    threshold_kb: int
    noted: int = 0

    @property
    def is_due(self) -> bool:
        """True if more points have no graph than there should be."""
        return self._is_due(self.collection.unbuilt)

    @property
    def is_noted(self) -> bool:
        """True if graphs would be due after a kill, too."""
        return self._is_due(self.noted)

    def _is_due(self, unbuilt: int) -> bool:
        minimum_kb = max(self.threshold_kb, _SHARE * self.graph_points * self._point_kb)
        return self.threshold_kb > 0 and unbuilt * self._point_kb > minimum_kb

    @property
    def _point_kb(self) -> float:
        vectors = self.place.config.get("vectors") or {}
        return max((each["size"] * 4 / 1024 for each in vectors.values()), default=0.0)


@dataclass(frozen=True)
class _Failure:
    reason: str
    pause_s: float
    retry_at: float


class Graphs:
    """A thread that builds the graphs of one collection at a time. Close it after use.

    `needs` names the collections. `adopt` records that a collection has another shard, the number of its points with a
    graph, and that of the others, or raises `StoreError` if the collection has been closed. `is_adopted` returns True
    for a shard of a collection. `note` records how many points of collections have no graph.
    """

    def __init__(
        self,
        needs: Callable[[], Sequence[GraphNeeds]],
        open_shard: Callable[[ShardPlace], ShardProcess],
        adopt: Callable[[OpenCollection, ShardPlace, int, int], None],
        is_adopted: Callable[[ShardPlace], bool],
        note: Callable[[Sequence[OpenCollection]], None],
        *,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._needs = needs
        self._open_shard = open_shard
        self._adopt = adopt
        self._is_adopted = is_adopted
        self._note = note
        self._quiet_s = quiet_s
        self._stop = threading.Event()
        self._failures: dict[str, _Failure] = {}
        self._counted: dict[str, tuple[float, int]] = {}  # when, and how many points had no graph
        self.building: str | None = None
        self._thread = threading.Thread(target=self._run, name="store-graphs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give up what is being built."""
        self._stop.set()
        self._thread.join()

    def failure(self, name: str) -> str | None:
        """Return why the graphs of a collection could not be built at the last attempt."""
        failed = self._failures.get(name)
        return None if failed is None else failed.reason

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            for each in self._needs():
                if each.is_due and not each.is_noted:
                    with suppress(StoreError, OSError):  # a full disk; tried again at once
                        self._note([each.collection])
                if self._is_time(each):
                    self._try_to_build(each)

    def _try_to_build(self, needs: GraphNeeds) -> None:
        name = self.building = needs.collection.name
        try:
            if self._build(needs):
                self._failures.pop(name, None)
        except (StoreError, Refusal, OSError) as error:
            # Searches work without, and a full disk may have space later.
            logger.warning("Searches of collection %r stay slow: %s", name, error)
            before = self._failures.get(name)
            pause_s = _FIRST_RETRY_S if before is None else min(2 * before.pause_s, _LAST_RETRY_S)
            self._failures[name] = _Failure(str(error), pause_s, time.monotonic() + pause_s)
        finally:
            self.building = None

    def _is_time(self, needs: GraphNeeds) -> bool:
        """Return True if graphs are due, and hardly any points were added for a while."""
        name, now = needs.collection.name, time.monotonic()
        if not needs.is_due:
            self._failures.pop(name, None)
        failed = self._failures.get(name)
        if not needs.is_due or (failed is not None and now < failed.retry_at):
            self._counted.pop(name, None)
            return False
        unbuilt = needs.collection.unbuilt
        since, count = self._counted.get(name, (0.0, 0))
        if unbuilt > count * (1 + _FEW):
            since = now
            self._counted[name] = now, unbuilt
        return now - since >= self._quiet_s

    def _build(self, needs: GraphNeeds) -> bool:
        """Build the graphs of a collection; return False if it was closed meanwhile."""
        collection, source = needs.collection, needs.place.directory
        target = replace(needs.place, directory=source.with_name(uuid.uuid4().hex))
        builder = BuilderProcess()
        doom(target.directory)
        try:
            with collection.updates_paused():
                builder.copy(source, target, needs.threshold_kb)
                collection.record(target.directory.with_suffix(".log"))
                built = collection.unbuilt
            while not builder.has_finished(_POLL_S):
                # A collection whose process was killed is opened again, with updates that are not recorded here.
                if self._stop.is_set() or collection.is_closed:
                    return False
            builder.kill()
            self._replace(needs, target, built)
            delete(source)
            return True
        finally:
            builder.kill()
            collection.forget()
            if self._is_adopted(target):
                spare(target.directory)
            else:
                delete(target.directory)

    def _replace(self, needs: GraphNeeds, place: ShardPlace, built: int) -> None:
        collection = needs.collection
        shard = self._open_shard(place)

        def adopt() -> None:
            unbuilt = collection.unbuilt - built
            points = int(shard.answer("GET info", None)["points_count"])
            doom(needs.place.directory)
            try:
                self._adopt(collection, place, max(0, points - unbuilt), unbuilt)
            except BaseException:
                spare(needs.place.directory)
                raise
            collection.unbuilt = unbuilt

        try:
            with suppress(Refusal):
                _warm(shard, place)
            collection.replace(shard, adopt)
        except BaseException:
            if not self._is_adopted(place):
                shard.kill()
            raise


def _warm(shard: OpenShard, place: ShardPlace) -> None:
    """Search for some of the points of a shard."""
    for name in place.config.get("vectors") or {}:
        present = {"must": [{"has_vector": name}]}
        some = {"query": {"sample": "random"}, "filter": present, "limit": _WARMING, "with_vector": [name]}
        for point in shard.answer("POST points/query", some)["points"]:
            search = {"query": point["vector"][name], "using": name, "with_payload": True, "params": _RESCORED}
            shard.answer("POST points/query", search)
