"""The status of an index: its collections with estimated sizes, the pause after a rollback, and the upgrade lock."""

from collections.abc import Mapping
from dataclasses import dataclass

from viewfinder import clock
from viewfinder.footprint import disk_bytes
from viewfinder.reindexing.rollback import RollbackPause, read_pause
from viewfinder.reindexing.upgrade_lock import LockHolder, read_holder
from viewfinder.sources.skips import SKIP_REASONS
from viewfinder.store import Collection, Store
from viewfinder.store.control import Control


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
    """All collections of an index, oldest first, the pause after a rollback, and the holder of the upgrade lock.

    `incomplete` is a sentence on a change of model that ended between its switch and its end; None otherwise.
    """

    index: str
    collections: tuple[CollectionStatus, ...]
    rollback_pause: RollbackPause | None
    locked_by: LockHolder | None
    incomplete: str | None


def read(store: Store, index: str) -> IndexStatus:
    """Read the current status of `index`; an expired lock is omitted."""
    live = store.collections.live(index)
    live_name = live.name if live else ""
    collections = tuple(_describe(store, each, each.name == live_name) for each in store.collections.all(index))
    control = store.control(index)
    holder = _holder(control)
    return IndexStatus(index, collections, read_pause(control), holder, _incomplete(live, holder))


def incomplete_change(store: Store, index: str) -> str | None:
    """Return a sentence on a change of model that ended between its switch and its end, None if there is none."""
    return _incomplete(store.collections.live(index), _holder(store.control(index)))


def estimated_bytes(store: Store, collection: Collection, dimension: int | None = None) -> int:
    """Estimate the size of a collection on disk, now or with vectors of another dimension.

    One copy, with the formats of vectors that the settings name for new collections.
    """
    images, captions = (store.points.count(collection, {kind: {"eq": True}}) for kind in ("has_image", "has_caption"))
    size = disk_bytes(
        points=store.points.count(collection),
        vectors=images + captions,
        captions=captions,
        dimension=dimension or collection.metadata.dimension,
        vector_type=store.address.vector_type,
        quantization=store.address.stored_quantization,
    )
    return round(size)


def format_bytes(count: float) -> str:
    """Format a number of bytes: "3.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _incomplete(live: Collection | None, holder: LockHolder | None) -> str | None:
    """Describe an incomplete change of model. While a run holds the upgrade lock, the change is still in progress."""
    if live is None or not live.metadata.behind or holder is not None:
        return None
    return (
        f"The change of model from {live.metadata.behind} to {live.name} did not get to its end: {live.name} may lack "
        "what jobs indexed while it was built. To complete it: viewfinder reindex --when-model-changed"
    )


def _holder(control: Control) -> LockHolder | None:
    """Return the holder of the upgrade lock, None if it is free or has expired."""
    holder = read_holder(control)
    return None if holder is None or holder.expired(clock.now()) else holder


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
