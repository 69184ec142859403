"""What a re-index has done on the cluster, behind five calls: the rest of it needs none."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from viewfinder.cluster import fresh_encodings as fresh
from viewfinder.cluster.pipeline import Pass
from viewfinder.indexing import preflight
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import Gone
from viewfinder.indexing.reach import Reach
from viewfinder.indexing.report import Report
from viewfinder.indexing.run import Sync
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Vectors
from viewfinder.settings import Settings
from viewfinder.store import Collection, Record, Store


class Work(Protocol):
    """Passes over sources, and encodings to verify what they brought."""

    def check(self, sources: Sequence[str]) -> None:
        """List each source and read one object of it where the work is done; raises `SourceError`."""

    def plan(self, options: IndexOptions, collection: Collection | None) -> tuple[Mapping[str, int], Gone | None]:
        """How many of the listed objects would need what, and which points would go; nothing is written."""

    def sync(self, options: IndexOptions, collection: Collection, checkpoint: Checkpoint) -> Pass:
        """One pass over the sources of `options`."""

    def encode_texts(self, checkpoint: Checkpoint, texts: Sequence[str]) -> Vectors:
        """Unit vectors float32 [N, D]."""

    def encode_pictures(self, checkpoint: Checkpoint, records: Iterable[Record]) -> dict[str, Vectors]:
        """Unit vectors (float32 [D]) by point id, of pictures that are still what was indexed."""


class ClusterWork:
    """All of it on Ray."""

    def __init__(self, settings: Settings, reach: Reach, store: Store, report: Report, workspace: Path) -> None:
        self._settings = settings
        self._reach = reach
        self._store = store
        self._report = report
        self._workspace = workspace
        self._numbers = itertools.count(1)

    def check(self, sources: Sequence[str]) -> None:
        preflight.check_worker(sources, self._reach)

    def plan(self, options: IndexOptions, collection: Collection | None) -> tuple[Mapping[str, int], Gone | None]:
        with self._listed(options, collection) as sync:
            return sync.plan()

    def sync(self, options: IndexOptions, collection: Collection, checkpoint: Checkpoint) -> Pass:
        with self._listed(options, collection) as sync:
            return sync.carry_out(checkpoint, self._report)

    def encode_texts(self, checkpoint: Checkpoint, texts: Sequence[str]) -> Vectors:
        return fresh.encode_texts(checkpoint, self._settings, texts)

    def encode_pictures(self, checkpoint: Checkpoint, records: Iterable[Record]) -> dict[str, Vectors]:
        return fresh.encode_pictures(checkpoint, self._settings, self._reach.access, records)

    @contextmanager
    def _listed(self, options: IndexOptions, collection: Collection | None) -> Iterator[Sync]:
        # A manifest of a large bucket takes gigabytes: one at a time.
        with tempfile.TemporaryDirectory(dir=self._workspace, prefix=f"pass-{next(self._numbers)}-") as directory:
            manifest = preflight.list_objects(options, self._reach.access, Path(directory))
            yield Sync(options, self._settings, self._reach, self._store, collection, manifest)
