"""The status of an index: its collections with estimated sizes, the pause after a rollback, and the upgrade lock."""

from collections.abc import Mapping
from dataclasses import dataclass

from viewfinder import clock
from viewfinder.footprint import disk_bytes
from viewfinder.reindexing.rollback import RollbackPause, read_pause
from viewfinder.reindexing.upgrade_lock import LockHolder, read_holder
from viewfinder.sources.skips import SKIP_REASONS
from viewfinder.store import Collection, Store


@dataclass(frozen=True)
class CollectionStatus:
    """One collection; `bytes` is an estimate, `built_at` and `state` are recorded in its metadata."""

    name: str
    model: str
    fingerprint: str
    state: str
    points: int
    built_at: str
    bytes: int
    live: bool
    skipped: Mapping[str, int]  # objects that the last run skipped, by reason


@dataclass(frozen=True)
class IndexStatus:
    """All collections of an index, oldest first, the pause after a rollback, and the holder of the upgrade lock."""

    index: str
    collections: tuple[CollectionStatus, ...]
    rollback_pause: RollbackPause | None
    locked_by: LockHolder | None


def read(store: Store, index: str) -> IndexStatus:
    """Read the current status of `index`; an expired lock is omitted."""
    live = store.collections.live(index)
    live_name = live.name if live else ""
    collections = tuple(_describe(store, each, each.name == live_name) for each in store.collections.all(index))
    control = store.control(index)
    holder = read_holder(control)
    if holder is not None and holder.expired(clock.now()):
        holder = None
    return IndexStatus(index, collections, read_pause(control), holder)


def estimated_bytes(store: Store, collection: Collection, dimension: int | None = None) -> int:
    """Estimate the size of a collection on a server's disk, now or with vectors of another dimension.

    One copy, with the formats of vectors that the settings name for new collections.
    """
    images, captions = (store.points.count(collection, {kind: {"eq": True}}) for kind in ("has_image", "has_caption"))
    size = disk_bytes(
        points=store.points.count(collection),
        vectors=images + captions,
        captions=captions,
        dimension=dimension or collection.metadata.dimension,
        vector_type=store.address.vector_type,
        quantization=store.address.quantization,
    )
    return round(size)


def format_bytes(count: float) -> str:
    """Format a number of bytes: "3.2 GB"."""
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
        skipped={reason: count for reason in SKIP_REASONS if (count := metadata.counts.get(f"skipped_{reason}", 0))},
    )
