"""Prune of captions: remove those that the captions files of a run no longer have."""

import itertools
from collections.abc import Iterator, Sequence

from viewfinder import clock
from viewfinder.errors import ConfigurationError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.points_before import PointBefore
from viewfinder.indexing.prune import BATCH, PruneRefusedError, PruneScope, captioned_ids, holds
from viewfinder.sources.captions import NO_CAPTION
from viewfinder.store.records import StoredPoint
from viewfinder.wording import counted


class CaptionsPrune:
    """Removes captions of listed objects that no captions file of the run names.

    The text of an object that a file names without one is removed by the run itself (`Compare.remove_captions`), and
    counted here.
    """

    def __init__(self, scope: PruneScope, *, max_ratio: float) -> None:
        self._store = scope.store
        self._collection = scope.collection
        self._before = scope.before
        self._max_ratio = max_ratio
        self._listed, self._recorded, self._captioned = captioned_ids(scope.manifest.paths)

    @classmethod
    def of(cls, options: IndexOptions, scope: PruneScope | None) -> "CaptionsPrune | None":
        """The prune of a run, None without `options.prune_captions`.

        Raises `ConfigurationError` without captions files, and `PruneRefusedError` if one could not be read.
        """
        if not options.prune_captions or scope is None:
            return None
        if not scope.manifest.with_captions:
            raise ConfigurationError("--prune-captions: there is no captions file. Name all of them with --captions.")
        if gone := scope.manifest.captions_gone:
            raise PruneRefusedError(
                f"--prune-captions: {', '.join(map(repr, gone))} cannot be read, so its captions would be removed. "
                "Nothing pruned."
            )
        return cls(scope, max_ratio=options.prune_captions_max_ratio)

    @property
    def sources(self) -> frozenset[str]:
        """The sources of the points that are counted."""
        return frozenset(self._before.sources)

    def plan(self) -> int:
        """Count the captions that `carry_out` would remove; raises `PruneRefusedError` if they exceed the ratio.

        Texts alone are counted too: beside many images with tags, all of them may be a small part.
        """
        texts = records = dropped_texts = dropped = without_text = 0
        for point in self._before.points():
            texts += point.has_caption
            records += bool(point.caption_hash)
            without_text += self._is_without_text(point)
            if self._is_dropped(point):
                dropped += 1
                dropped_texts += point.has_caption
        lost = dropped_texts + without_text
        self._check(lost, texts, f"{lost:,} of the {counted(texts, 'caption')}")
        removed = dropped + without_text
        self._check(
            removed, records, f"captions, tags or fields of {removed:,} of the {counted(records, 'image')} with any"
        )
        return removed

    def _check(self, removed: int, existing: int, described: str) -> None:
        if removed > self._max_ratio * existing:
            raise PruneRefusedError(
                f"--prune-captions would remove {described} of these sources ({removed / existing:.0%}), more than "
                f"--prune-captions-max-ratio {self._max_ratio:g} allows. Nothing pruned. Check the keys in the "
                "captions files, or run again with a larger --prune-captions-max-ratio."
            )

    def carry_out(self, run_id: str) -> int:
        """Remove the captions, and return their number with those that the run has removed."""
        dropped, removed = self._dropped(), 0
        while page := list(itertools.islice(dropped, BATCH)):
            removed += self._remove(page, run_id)
        without_text = self._without_text()
        while page := list(itertools.islice(without_text, BATCH)):
            states = self._store.points.states(self._collection, [point.id for point in page])
            removed += sum(not state.has_caption for state in states.values())
        return removed

    def _remove(self, page: Sequence[PointBefore], run_id: str) -> int:
        """Remove the captions of those points that still have the same one."""
        before = {point.id: point.caption_hash for point in page}
        stamp = {"run_id": run_id, "indexed_at": clock.timestamp()}

        def without_caption(id_: str, point: StoredPoint) -> StoredPoint | None:
            if point.state.caption_hash != before[id_]:
                return None
            vectors = dict(point.vectors)
            vectors.pop("caption", None)
            return StoredPoint({**point.payload, **NO_CAPTION, **stamp}, vectors)

        return self._store.points.update(self._collection, list(before), without_caption)

    def _dropped(self) -> Iterator[PointBefore]:
        return filter(self._is_dropped, self._before.points())

    def _without_text(self) -> Iterator[PointBefore]:
        return filter(self._is_without_text, self._before.points())

    def _is_dropped(self, point: PointBefore) -> bool:
        """Return True for a listed object that no captions file names any more."""
        return bool(point.caption_hash) and holds(self._listed, point.id) and not holds(self._recorded, point.id)

    def _is_without_text(self, point: PointBefore) -> bool:
        """Return True for an object whose record has lost its text."""
        return point.has_caption and holds(self._recorded, point.id) and not holds(self._captioned, point.id)
