"""A job on Ray without a cluster: Ray starts on this machine when there is enough work for its workers."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pyarrow as pa

from viewfinder.arrays import Vectors
from viewfinder.cluster.session import LOCAL, ray_of_job
from viewfinder.indexing.accounting import Outcome, Tally
from viewfinder.indexing.compare import Compare, count_to_encode
from viewfinder.indexing.executor import Compared, Executor, IndexJob, InProcessExecutor
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.indexing.rows import RowFiles
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Record, Store
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.index")

# Objects to encode. Ray and its workers take some 60 s of CPU to start, in which two cores encode as many small images.
SMALL_JOB = 2000


class OnDemandExecutor:
    """Runs the stages on a Ray that starts with the first large job, and all else in this process.

    With the address `local` Ray starts with the first job of any size.

    The workers are on the same machine, so access to the objects is checked here, and a few texts or images are encoded
    here. An embedded store stays with this process, which compares with it and writes to it, unless it is held on a Ray
    that can be joined.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._here = InProcessExecutor()
        self._on_ray: Executor | None = None
        self._session = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End Ray, if it was started."""
        self._session.close()
        self._here.close()

    def check(self, sources: Sequence[str], access: ObjectAccess, store: Store) -> None:
        self._here.check(sources, access, store)

    def count_actions(self, manifest: Manifest, compare: Compare, store: Store) -> dict[str, int]:
        return self._comparer(store).count_actions(manifest, compare, store)

    def compare(self, manifest: Manifest, compare: Compare, store: Store) -> Iterator[pa.Table]:
        return self._comparer(store).compare(manifest, compare, store)

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        if self._is_small(compared):
            return self._here.index(job, store, compared, progress)
        on_ray = self._started(store)
        if compared is not None or not store.connection.is_embedded:
            return on_ray.index(job, store, compared, progress)
        with tempfile.TemporaryDirectory(dir=job.manifest.paths[0].parent, prefix="compared-") as directory:
            tables = self._here.compare(job.manifest, job.compare, store)
            return on_ray.index(job, store, RowFiles.write(tables, Path(directory)), progress)

    def encode_texts(
        self, checkpoint: Checkpoint, settings: Settings, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> Vectors:
        return self._here.encode_texts(checkpoint, settings, texts, timeout_s=timeout_s)

    def encode_images(
        self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess, records: Iterable[Record]
    ) -> dict[str, Vectors]:
        return self._here.encode_images(checkpoint, settings, access, records)

    def count_written(self, index: str, tally: Tally) -> None:
        """Count on the Ray of this job; a run that needs none has no metrics."""
        if self._on_ray is not None:
            self._on_ray.count_written(index, tally)

    def _is_small(self, compared: Compared | None) -> bool:
        """True if Ray would take longer to start than it could save."""
        if compared is None or self._on_ray is not None or self._settings.ray_address == LOCAL:
            return False
        count = count_to_encode(compared)
        if count > SMALL_JOB:
            return False
        logger.info("Indexing %s in this process; from %s on, Ray starts", counted(count, "object"), f"{SMALL_JOB:,}")
        return True

    def _comparer(self, store: Store) -> Executor:
        return self._here if store.connection.is_embedded else self._started(store)

    def _started(self, store: Store) -> Executor:
        if self._on_ray is None:
            from viewfinder.cluster.executor import RayExecutor

            logger.info("Starting Ray on this machine")
            session = self._session.enter_context(ray_of_job(self._settings, store.address, with_holder=False))
            self._on_ray = RayExecutor(local=session.owned)
        return self._on_ray
