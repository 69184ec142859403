"""Prune of captions: remove those that the captions files of a run no longer have."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from viewfinder import clock
from viewfinder.errors import ConfigurationError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.points_before import PointBefore, text_hash
from viewfinder.indexing.prune import BATCH, PruneRefusedError, PruneScope, captioned_ids, half_id, holds, listed_rows
from viewfinder.sources.captions import NO_CAPTION, CaptionRecord
from viewfinder.sources.uris import point_id
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
        self._paths = scope.manifest.paths
        self._listed, self._recorded, self._captioned = captioned_ids(self._paths)

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
        stamp = {"run_id": run_id, "indexed_at": clock.timestamp()}
        return self._remove_dropped(stamp) + self._remove_texts(stamp)

    def _remove_dropped(self, stamp: Mapping[str, str]) -> int:
        hashes: dict[str, str] = {}

        def change(id_: str, point: StoredPoint) -> StoredPoint | None:
            return _with_caption(point, NO_CAPTION, stamp) if point.state.caption_hash == hashes[id_] else None

        dropped, removed = filter(self._is_dropped, self._before.points()), 0
        while page := list(itertools.islice(dropped, BATCH)):
            hashes = {point.id: point.caption_hash for point in page}
            removed += self._store.points.update(self._collection, list(hashes), change)
        return removed

    def _remove_texts(self, stamp: Mapping[str, str]) -> int:
        """Remove the texts of records that have none any more; the tags and fields are those of the captions files."""
        records: dict[str, CaptionRecord] = {}
        counted = CountedTexts(filter(self._is_without_text, self._before.points()))

        def change(id_: str, point: StoredPoint) -> StoredPoint | None:
            record = records[id_]
            return _with_caption(point, record.payload(), stamp) if counted.holds(id_, point, record) else None

        if not len(counted.ids):
            return 0
        removed = 0
        for rows in listed_rows(self._paths, ["uri", "caption", "caption_hash", "caption_details"]):
            blank = [row for row in rows if row["caption_hash"] is not None and row["caption"] is None]
            found = {
                point_id(row["uri"]): CaptionRecord(None, row["caption_hash"], row["caption_details"]) for row in blank
            }
            records = {id_: record for id_, record in found.items() if holds(counted.ids, id_)}
            removed += self._store.points.update(self._collection, list(records), change)
        return removed

    def _is_dropped(self, point: PointBefore) -> bool:
        """Return True for a listed object that no captions file names any more."""
        return bool(point.caption_hash) and holds(self._listed, point.id) and not holds(self._recorded, point.id)

    def _is_without_text(self, point: PointBefore) -> bool:
        """Return True for an object whose record has lost its text."""
        return bool(point.text_hash) and holds(self._recorded, point.id) and not holds(self._captioned, point.id)


class CountedTexts:
    """Texts that were there before the listing: 24 bytes for each."""

    def __init__(self, points: Iterable[PointBefore]) -> None:
        rows = ((half_id(each.id), int(each.text_hash, 16), _number(each.caption_hash)) for each in points)
        found = np.sort(np.fromiter(rows, [("id", np.uint64), ("text", np.uint64), ("record", np.uint64)]), order="id")
        self.ids, self._texts, self._records = found["id"], found["text"], found["record"]

    def holds(self, id_: str, point: StoredPoint, record: CaptionRecord) -> bool:
        """Return True if a point whose id is in `ids` still has its text, as it was or in the `record` of this run.

        Another run may have written the same text since, but with other tags or fields.
        """
        place = np.searchsorted(self.ids, np.uint64(half_id(id_)))
        text, written = point.payload.get("caption"), point.state.caption_hash
        if not text or int(text_hash(point.payload), 16) != self._texts[place]:
            return False
        return _number(written) == self._records[place] or written == record.with_caption(text).caption_hash


def _number(caption_hash: str) -> int:
    return int.from_bytes(hashlib.blake2b(caption_hash.encode(), digest_size=8).digest())


def _with_caption(point: StoredPoint, caption: Mapping[str, Any], stamp: Mapping[str, str]) -> StoredPoint:
    """Return the point with these caption fields, and without the vector of a text."""
    vectors = dict(point.vectors)
    vectors.pop("caption", None)
    return StoredPoint({**point.payload, **caption, **stamp}, vectors)
