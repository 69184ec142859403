"""The `viewfinder.indexing.executor.Executor` that runs the stages on Ray."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray

from viewfinder.arrays import Vectors
from viewfinder.cluster.datasink import QdrantDatasink
from viewfinder.cluster.metrics import listed_gauge, metrics_of
from viewfinder.cluster.pipeline import compared as compared_on_workers
from viewfinder.cluster.pipeline import unwrap_worker_errors, write_all
from viewfinder.cluster.progress import followed_writes
from viewfinder.cluster.resources import COMPARERS, Workers
from viewfinder.errors import ViewfinderError
from viewfinder.indexing.accounting import Outcome, Tally, stages_of
from viewfinder.indexing.compare import Compare, count_actions
from viewfinder.indexing.connections import objects_of, store_at
from viewfinder.indexing.encode import Encode
from viewfinder.indexing.executor import IndexJob, encode_stored
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.preflight import check_access
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Record, Store, StoreAddress

logger = logging.getLogger("viewfinder.index")

T = TypeVar("T")

WAIT_LOGGED_S = 30.0


class RayExecutor:
    """Runs the stages on the Ray that this process has joined. Workers open their own connections to store and objects.

    `encode_texts` and `encode_images` also run on a worker: the driver may lack the device, the memory or access to the
    objects.
    """

    def check(self, sources: Sequence[str], access: ObjectAccess, store: Store) -> None:
        with unwrap_worker_errors():
            trial = ray.remote(num_cpus=0.01)(_check).remote(list(sources), access, store.address)
            while not ray.wait([trial], timeout=WAIT_LOGGED_S)[0]:
                logger.info("Waiting for a free worker in the cluster")
            ray.get(trial)

    def count_actions(self, manifest: Manifest, compare: Compare, store: Store) -> dict[str, int]:
        rows = compared_on_workers(manifest, compare).select_columns(["action", "count"])
        with unwrap_worker_errors():
            return count_actions(rows.iter_batches(batch_format="pyarrow"))

    def index(
        self, job: IndexJob, store: Store, compared: Sequence[pa.Table] | None, progress: IndexingProgress
    ) -> Outcome:
        workers = _plan_workers(job.settings)
        address, collection, settings = store.address, job.collection, job.settings
        with followed_writes(progress) as written, listed_gauge(collection.index, job.manifest.listed):
            sink = QdrantDatasink(
                address,
                collection,
                run_id=job.run_id,
                batch_size=settings.write_batch_size,
                decided_by=job.compare.decided_by,
                machines=sum(bool(node["Alive"]) for node in ray.nodes()),
                written=written,
            )
            with unwrap_worker_errors():
                rows = compared_on_workers(job.manifest, job.compare) if compared is None else compared
                write_all(job, rows, workers, sink)
        progress(sink.total.outcomes)  # exact, whatever was lost on the way
        stages = stages_of(
            sink.total,
            comparers=1 if compared is not None else min(COMPARERS, len(job.manifest.paths)),
            fetchers=workers.decoders * settings.fetch_threads,
            decoders=workers.decoders,
            encoders=workers.encoders,
            writers=workers.writers,
        )
        return Outcome(sink.total, stages)

    def encode_texts(
        self, checkpoint: Checkpoint, settings: Settings, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> Vectors:
        return np.asarray(_on_encoder_worker(_encode_texts, checkpoint, settings, timeout_s, list(texts)))

    def encode_images(
        self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess, records: Iterable[Record]
    ) -> dict[str, Vectors]:
        fetch = FetchAndDecode.of(settings, access, checkpoint)
        payloads = {record.id: dict(record.payload) for record in records}
        return _on_encoder_worker(_encode_images, checkpoint, settings, None, fetch, payloads)

    def count_written(self, index: str, tally: Tally, table: pa.Table) -> None:
        metrics_of(index).add_block(tally, table)


def _plan_workers(settings: Settings) -> Workers:
    total, free = ray.cluster_resources(), ray.available_resources()
    workers = Workers.plan(settings, total, free)
    if missing := workers.missing_gpu(total, free):
        logger.warning(missing)
    return workers


def _check(sources: Sequence[str], access: ObjectAccess, address: StoreAddress) -> None:
    check_access(sources, objects_of(access), store_at(address))


def _on_encoder_worker(
    work: Callable[..., T], checkpoint: Checkpoint, settings: Settings, timeout_s: float | None, *arguments: Any
) -> T:
    workers = Workers.plan(settings, ray.cluster_resources(), ray.available_resources())
    remote = ray.remote(num_cpus=workers.encoder_cpus, num_gpus=workers.gpus)(work)
    options = {
        "device": settings.device,
        "precision": settings.precision,
        "cores": workers.cores,
        "revisions": dict(checkpoint.revisions),
    }
    with unwrap_worker_errors():
        task = remote.remote(checkpoint.name, checkpoint.fingerprint, options, *arguments)
        if not ray.wait([task], timeout=timeout_s)[0]:
            ray.cancel(task, force=True)
            raise ViewfinderError(f"No worker finished encoding with model {checkpoint.name!r} within {timeout_s:g} s.")
        result: T = ray.get(task)
        return result


def _encode_texts(model: str, fingerprint: str, options: dict[str, Any], texts: list[str]) -> Vectors:
    return Encode(model, fingerprint, **options).encode_texts(texts)[0]


def _encode_images(
    model: str,
    fingerprint: str,
    options: dict[str, Any],
    fetch: FetchAndDecode,
    payloads: Mapping[str, Mapping[str, Any]],
) -> dict[str, Vectors]:
    return encode_stored(fetch, Encode(model, fingerprint, **options), payloads)
