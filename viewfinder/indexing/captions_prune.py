"""Prune of captions: remove those that the captions files of a run no longer have."""

import itertools
from collections.abc import Mapping
from typing import Any

from viewfinder import clock
from viewfinder.errors import ConfigurationError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.points_before import PointBefore, text_hash
from viewfinder.indexing.prune import BATCH, PruneRefusedError, PruneScope, captioned_ids, holds
from viewfinder.sources.captions import NO_CAPTION, CaptionRecord
from viewfinder.store.records import StoredPoint
from viewfinder.wording import counted


class CaptionsPrune:
    """Removes captions of listed objects that no captions file of the run names, or that one names without a text.

    Only those that were there before the listing: a caption that another run writes meanwhile is in no count.
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

    def plan(self) -> int:
        """Count the captions that `carry_out` would remove; raises `PruneRefusedError` if they exceed the ratio.

        Texts alone are counted too: beside many images with tags, all of them may be a small part.
        """
        texts = records = dropped_texts = dropped = without_text = 0
        for point in self._before.points():
            texts += bool(point.text_hash)
            records += bool(point.caption_hash)
            without_text += self._is_without_text(point)
            if self._is_dropped(point):
                dropped += 1
                dropped_texts += bool(point.text_hash)
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
        """Remove the captions, and return their number."""
        points = self._before.points()
        lost = (point for point in points if self._is_dropped(point) or self._is_without_text(point))
        removed = 0
        while page := list(itertools.islice(lost, BATCH)):
            removed += self._remove({point.id: point for point in page}, run_id)
        return removed

    def _remove(self, before: Mapping[str, PointBefore], run_id: str) -> int:
        """Remove the captions of those points that still have the same ones."""
        stamp = {"run_id": run_id, "indexed_at": clock.timestamp()}

        def without_caption(id_: str, point: StoredPoint) -> StoredPoint | None:
            was = before[id_]
            if not self._is_unchanged(point, was):
                return None
            # The tags and fields of a record without a text stay: this run has written them.
            caption = NO_CAPTION if self._is_dropped(was) else _without_text(point.payload)
            vectors = dict(point.vectors)
            vectors.pop("caption", None)
            return StoredPoint({**point.payload, **caption, **stamp}, vectors)

        return self._store.points.update(self._collection, list(before), without_caption)

    def _is_unchanged(self, point: StoredPoint, was: PointBefore) -> bool:
        """Return True for a point that still has the caption that is to be removed."""
        if self._is_dropped(was):
            return point.state.caption_hash == was.caption_hash
        return text_hash(point.payload) == was.text_hash

    def _is_dropped(self, point: PointBefore) -> bool:
        """Return True for a listed object that no captions file names any more."""
        return bool(point.caption_hash) and holds(self._listed, point.id) and not holds(self._recorded, point.id)

    def _is_without_text(self, point: PointBefore) -> bool:
        """Return True for an object whose record has lost its text."""
        return bool(point.text_hash) and holds(self._recorded, point.id) and not holds(self._captioned, point.id)


def _without_text(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The caption fields of a payload whose text is removed."""
    record = CaptionRecord.of(None, payload.get("tags") or (), payload.get("meta"))
    return NO_CAPTION if record.is_empty else record.payload()
