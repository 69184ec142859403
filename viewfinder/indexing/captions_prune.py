"""Prune of captions: remove those that the captions files of a run no longer have."""

import itertools
from collections.abc import Iterator

from viewfinder.errors import ConfigurationError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import BATCH, PruneRefusedError, captioned_ids, holds
from viewfinder.indexing.snapshot import PointBefore, Snapshot
from viewfinder.sources.captions import NO_CAPTION
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Store


class CaptionsPrune:
    """Removes captions of listed objects that no captions file of the run names.

    Only captions of the `snapshot`, which was taken before the listing began, and only while they are as they were.
    """

    def __init__(
        self, store: Store, collection: Collection, snapshot: Snapshot, manifest: Manifest, *, max_ratio: float
    ) -> None:
        self._store = store
        self._collection = collection
        self._snapshot = snapshot
        self._max_ratio = max_ratio
        self._listed, self._captioned = captioned_ids(manifest.paths)

    @classmethod
    def of(
        cls,
        options: IndexOptions,
        store: Store,
        collection: Collection | None,
        manifest: Manifest,
        snapshot: Snapshot | None,
    ) -> "CaptionsPrune | None":
        """The prune of a run, None without `options.prune_captions`.

        Raises `ConfigurationError` without captions files, and `PruneRefusedError` if one could not be read.
        """
        if not options.prune_captions or collection is None or snapshot is None:
            return None
        if snapshot.collection != collection.name:
            return None
        if not manifest.with_captions:
            raise ConfigurationError("--prune-captions: there is no captions file. Name all of them with --captions.")
        if manifest.captions_gone:
            raise PruneRefusedError(
                f"--prune-captions: {', '.join(map(repr, manifest.captions_gone))} cannot be read, so its captions "
                "would be removed. Nothing pruned."
            )
        return cls(store, collection, snapshot, manifest, max_ratio=options.prune_captions_max_ratio)

    def plan(self) -> int:
        """Count the captions that `carry_out` would remove; raises `PruneRefusedError` if they exceed the ratio."""
        with_caption = sum(1 for point in self._snapshot.points() if point.caption_hash)
        count = sum(1 for _ in self._dropped())
        if count > self._max_ratio * with_caption:
            raise PruneRefusedError(
                f"--prune-captions would remove {count:,} of the {with_caption:,} captions of these sources "
                f"({count / with_caption:.0%}), more than --prune-captions-max-ratio {self._max_ratio:g} allows. "
                "Nothing pruned. Check the keys in the captions files, or run again with a larger "
                "--prune-captions-max-ratio."
            )
        return count

    def carry_out(self) -> int:
        """Remove the captions, and return their number."""
        dropped, removed = self._dropped(), 0
        while page := list(itertools.islice(dropped, BATCH)):
            states = self._store.points.states(self._collection, [point.id for point in page])
            same = [each.id for each in page if each.id in states and states[each.id].caption_hash == each.caption_hash]
            if same:
                self._store.points.update_captions(self._collection, same, [NO_CAPTION] * len(same))
            removed += len(same)
        return removed

    def _dropped(self) -> Iterator[PointBefore]:
        for point in self._snapshot.points():
            if point.caption_hash and holds(self._listed, point.id) and not holds(self._captioned, point.id):
                yield point
