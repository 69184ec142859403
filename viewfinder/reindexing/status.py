"""The collections of an index as people want to see them: which is live, which could be, how large they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.table import Table

from viewfinder.reindexing import hold
from viewfinder.reindexing import upgrade_lock as lease
from viewfinder.store import Collection, Store

# What a payload takes with its indexes, and what a graph adds to float32 vectors.
_PAYLOAD_BYTES = 1000
_GRAPH_FACTOR = 1.25


@dataclass(frozen=True)
class CollectionStatus:
    """One collection; `bytes` is an estimate, `built_at` and `state` are what its metadata say."""

    name: str
    model: str
    fingerprint: str
    state: str
    points: int
    built_at: str
    bytes: int
    live: bool


@dataclass(frozen=True)
class IndexStatus:
    """All collections of an index, the oldest first, and what stands in the way of a re-index."""

    index: str
    collections: tuple[CollectionStatus, ...]
    hold: hold.Hold | None
    lease: lease.Holding | None


def read(store: Store, index: str) -> IndexStatus:
    """The status of `index` now."""
    live = store.collections.live(index)
    name = live.name if live else ""
    collections = tuple(_describe(store, each, each.name == name) for each in store.collections.all(index))
    control = store.control(index)
    return IndexStatus(index, collections, hold.standing(control), lease.standing(control))


def estimated_bytes(store: Store, collection: Collection, dimension: int | None = None) -> int:
    """About what a collection takes on a server, or would take with vectors of another dimension."""
    points = store.points.count(collection)
    vectors = sum(store.points.count(collection, {kind: {"eq": True}}) for kind in ("has_image", "has_caption"))
    numbers = dimension or collection.metadata.dimension
    return round(points * _PAYLOAD_BYTES + vectors * numbers * 4 * _GRAPH_FACTOR)


def table(status: IndexStatus) -> Table:
    """For a console."""
    made = Table("collection", "model", "state", "points", "built", "size", "live", box=SIMPLE_HEAD)
    for each in status.collections:
        made.add_row(
            each.name,
            each.model,
            each.state,
            f"{each.points:,}",
            each.built_at,
            f"~{size(each.bytes)}",
            "yes" if each.live else "",
        )
    return made


def notes(status: IndexStatus) -> Iterator[str]:
    """What else is to be said, a line each."""
    if not status.collections:
        yield f"There is no index {status.index!r} yet; jobs/index.py makes one."
    if status.hold:
        yield f"Held {status.hold}. Scheduled runs of jobs/reindex.py stop at it; lift it with --release or --model."
    if status.lease and not status.lease.over(datetime.now(UTC)):  # or a killed job has left it
        yield f"Being built by {status.lease}."


def size(count: float) -> str:
    """Bytes for people: "3.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _describe(store: Store, collection: Collection, live: bool) -> CollectionStatus:
    metadata = collection.metadata
    return CollectionStatus(
        name=collection.name,
        model=metadata.model_name,
        fingerprint=metadata.fingerprint,
        state=metadata.state,
        points=store.points.count(collection),
        built_at=metadata.created_at,
        bytes=estimated_bytes(store, collection),
        live=live,
    )
