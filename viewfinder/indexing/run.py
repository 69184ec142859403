"""One pass over some sources and one collection: list → compare → fetch, decode, encode, write → prune.

The index job makes one such pass; a re-index makes as many as it takes until nothing has changed meanwhile.
"""

from collections.abc import Mapping

from viewfinder.cluster import pipeline, progress
from viewfinder.cluster.fresh_encodings import encode_texts
from viewfinder.cluster.pipeline import Outcome, Pass
from viewfinder.indexing import shortcut
from viewfinder.indexing.caption_fields import note_fields
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import Gone, Prune
from viewfinder.indexing.reach import Reach
from viewfinder.indexing.report import Report
from viewfinder.indexing.stages import Compare
from viewfinder.indexing.takedowns import sweep
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Vectors
from viewfinder.settings import Settings
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Store
from viewfinder.store.baselines import queries, renew

# Loading a model takes seconds; a cluster without room for it must not hold up a job that is done otherwise.
QUERIES_TIMEOUT_S = 120.0


class Sync:
    """A pass over a complete manifest: what it would do, and doing it. Without a collection it can only say."""

    def __init__(
        self,
        options: IndexOptions,
        settings: Settings,
        reach: Reach,
        store: Store,
        collection: Collection | None,
        manifest: Manifest,
    ) -> None:
        self._settings = settings
        self._store = store
        self._collection = collection
        self._manifest = manifest
        self._compare = Compare(reach, collection, captions=options.captions is not None, prune=options.prune)
        self._prune = Prune.of(options, store, collection, manifest)

    def plan(self) -> tuple[Mapping[str, int], Gone | None]:
        """How many objects need what, and which points would be pruned; raises `PruneRefusedError`."""
        gone = self._prune.find() if self._prune else None
        few = shortcut.compared(self._manifest, self._compare, self._store)
        actions = pipeline.actions(self._manifest, self._compare) if few is None else pipeline.count_actions(few)
        return actions, gone

    def carry_out(self, checkpoint: Checkpoint, report: Report) -> Pass:
        """Bring the collection in line with the manifest; raises `PruneRefusedError` before anything is written."""
        assert self._collection is not None
        store, collection, manifest = self._store, self._collection, self._manifest
        if self._prune:
            self._prune.find()
        report.begin(store, collection, manifest)
        note_fields(store, collection, manifest)
        outcome = self._index(checkpoint, report.run_id)
        pruned = self._prune.carry_out() if self._prune else 0
        sweep(store, collection)
        renew(store, collection, outcome.tally.indexed, lambda: self._encoded_queries(checkpoint))
        return Pass(manifest, outcome, pruned)

    def _index(self, checkpoint: Checkpoint, run_id: str) -> Outcome:
        assert self._collection is not None
        settings, manifest, collection = self._settings, self._manifest, self._collection
        few = shortcut.compared(manifest, self._compare, self._store)
        if few is not None and shortcut.suffices(few):
            return shortcut.write(self._store, collection, few, settings, run_id)
        with progress.follow(manifest.listed) as counter:
            return pipeline.index_objects(
                manifest, self._compare, collection, checkpoint, settings, run_id, counter, compared=few
            )

    def _encoded_queries(self, checkpoint: Checkpoint) -> Vectors:
        texts = queries(checkpoint.spec.languages)
        return encode_texts(checkpoint, self._settings, texts, timeout_s=QUERIES_TIMEOUT_S)
