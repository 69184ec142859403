"""A job on Ray without a cluster: Ray starts on this machine when there is work for its workers.

Importing Ray Data and starting Ray takes as long as encoding a thousand small images, and most runs find nothing new.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

import pyarrow as pa

from viewfinder.arrays import Vectors
from viewfinder.cluster.session import ray_of_job
from viewfinder.indexing.accounting import Outcome, Tally
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.executor import Compared, Executor, IndexJob, InProcessExecutor
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Record, Store

logger = logging.getLogger("viewfinder.index")


class OnDemandExecutor:
    """Runs the stages on a Ray that starts with the first of them, and all else in this process.

    The workers are on the same machine, so access to the objects is checked here, and a few texts or images are encoded
    here. Close it before the store.
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
        return self._started(store).count_actions(manifest, compare, store)

    def compare(self, manifest: Manifest, compare: Compare, store: Store) -> Iterator[pa.Table]:
        return self._started(store).compare(manifest, compare, store)

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        return self._started(store).index(job, store, compared, progress)

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

    def _started(self, store: Store) -> Executor:
        if self._on_ray is None:
            logger.info("Starting Ray on this machine")
            self._on_ray = self._session.enter_context(_ray_executor(self._settings, store))
        return self._on_ray


@contextmanager
def _ray_executor(settings: Settings, store: Store) -> Iterator[Executor]:
    from viewfinder.cluster.executor import RayExecutor

    store.release()  # the holder on Ray answers the workers, and this process from now on
    with ray_of_job(settings, store.address):
        yield RayExecutor()
