"""The interface to the indexing that a re-index drives."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from viewfinder.indexing.options import Options as IndexOptions
from viewfinder.indexing.prune import Gone
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Vectors
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Record


class RunResult(Protocol):
    """The counts of one run over some sources."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def counts(self) -> dict[str, int]:
        """Objects: listed = unchanged + indexed + failed. Points: pruned."""

    @property
    def expected(self) -> int:
        """How many points of these sources the collection must hold now."""

    @property
    def changed(self) -> int:
        """How many points were written or deleted."""


class Indexer(Protocol):
    """Runs over sources, and encodings to verify their results."""

    def check(self, sources: Sequence[str]) -> None:
        """List each source and read one object of it where the work is done; raises `SourceError`."""

    def plan(self, options: IndexOptions, collection: Collection | None) -> tuple[Mapping[str, int], Gone | None]:
        """Count the listed objects by the action they need, and the points that would be pruned; writes nothing."""

    def sync(self, options: IndexOptions, collection: Collection, checkpoint: Checkpoint) -> RunResult:
        """Bring the collection in line with the sources of `options`."""

    def encode_texts(self, checkpoint: Checkpoint, texts: Sequence[str]) -> Vectors:
        """Return unit vectors float32 [N, D]."""

    def encode_images(self, checkpoint: Checkpoint, records: Iterable[Record]) -> dict[str, Vectors]:
        """Return unit vectors (float32 [D]) by point id, of images whose content is still what was indexed."""
