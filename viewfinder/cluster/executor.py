"""The `viewfinder.indexing.executor.Executor` that runs the stages on Ray Data.

manifest ─► compare ─► fetch and decode (tasks) ─► encode (actors) ─► write (`QdrantDatasink`)
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, Datasink, TaskPoolStrategy
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from viewfinder.arrays import Vectors
from viewfinder.cluster.metrics import listed_gauge, metrics_of
from viewfinder.cluster.progress import driver_node, followed_writes
from viewfinder.cluster.resources import COMPARERS, WAITING_STAGE_CPUS, Workers
from viewfinder.errors import ViewfinderError
from viewfinder.indexing.accounting import Outcome, Tally, stages_of
from viewfinder.indexing.compare import COMPARE_BATCH_SIZE, Compare, count_actions, count_to_encode, store_at
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.encode import Encode
from viewfinder.indexing.executor import Compared, IndexJob, encode_stored
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.preflight import check_access
from viewfinder.indexing.progress import IndexingProgress
from viewfinder.indexing.rows import RowFiles, cut_tables, paths_table, read_part
from viewfinder.indexing.write import write_rows
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Record, Store, StoreAddress

logger = logging.getLogger("viewfinder.index")

T = TypeVar("T")

WAIT_LOGGED_S = 30.0


class RayExecutor:
    """Runs the stages on the Ray that this process has joined. Workers open their own connections to store and objects.

    `encode_texts` and `encode_images` also run on a worker: the driver may lack the device, the memory or access to the
    objects. On a `local` Ray, which is this machine and ends with this process, workers have no access to an embedded
    store: it must be compared with before, and this process writes to it, or to a server if one writer is enough.
    """

    def __init__(self, *, local: bool = False) -> None:
        self._local = local

    def check(self, sources: Sequence[str], access: ObjectAccess, store: Store) -> None:
        with unwrap_worker_errors():
            trial = ray.remote(num_cpus=0.01)(_check).remote(list(sources), access, store.address)
            while not ray.wait([trial], timeout=WAIT_LOGGED_S)[0]:
                logger.info("Waiting for a free worker in the cluster")
            ray.get(trial)

    def count_actions(self, manifest: Manifest, compare: Compare, store: Store) -> dict[str, int]:
        rows = compare_on_workers(manifest, compare).select_columns(["action", "count"])
        with unwrap_worker_errors():
            return count_actions(rows.iter_batches(batch_format="pyarrow"))

    def compare(self, manifest: Manifest, compare: Compare, store: Store) -> Iterator[pa.Table]:
        with unwrap_worker_errors():
            yield from compare_on_workers(manifest, compare).iter_batches(batch_size=None, batch_format="pyarrow")

    def index(self, job: IndexJob, store: Store, compared: Compared | None, progress: IndexingProgress) -> Outcome:
        workers = _plan_workers(job.settings, None if compared is None else count_to_encode(compared))
        writes_here = self._local and (store.connection.is_embedded or workers.writers == 1)
        with listed_gauge(job.collection.index, job.manifest.listed), unwrap_worker_errors():
            encoded = encoded_rows(job, _rows_of(job, compared), workers)
            if writes_here:
                total = self._write_here(job, encoded, store, progress)
            else:
                total = _write_on_workers(job, encoded, store.address, workers.writers, progress)
        stages = stages_of(
            total,
            comparers=1 if isinstance(compared, Sequence) else min(COMPARERS, len(job.manifest.paths)),
            fetchers=workers.decoders * job.settings.fetch_threads,
            decoders=workers.decoders,
            encoders=workers.encoders,
            writers=1 if writes_here else workers.writers,
        )
        return Outcome(total, stages)

    def _write_here(self, job: IndexJob, encoded: Dataset, store: Store, progress: IndexingProgress) -> Tally:
        total = Tally()
        for table in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            tally = write_rows(
                store,
                job.collection,
                table,
                run_id=job.run_id,
                batch_size=job.settings.write_batch_size,
                decided_by=job.compare.decided_by,
            )
            self.count_written(job.collection.index, tally)
            total += tally
            progress(total.outcomes)
        return total

    def encode_texts(
        self, checkpoint: Checkpoint, settings: Settings, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> Vectors:
        return np.asarray(_on_encoder_worker(_encode_texts_task, checkpoint, settings, timeout_s, list(texts)))

    def encode_images(
        self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess, records: Iterable[Record]
    ) -> dict[str, Vectors]:
        fetch = FetchAndDecode.of(settings, access, checkpoint)
        payloads = {record.id: dict(record.payload) for record in records}
        return _on_encoder_worker(_encode_images_task, checkpoint, settings, None, fetch, payloads)

    def count_written(self, index: str, tally: Tally) -> None:
        metrics_of(index).add_block(tally)


def compare_on_workers(manifest: Manifest, compare: Compare) -> Dataset:
    """The compared rows of the manifest."""
    return _read_files(manifest.paths).map_batches(
        compare,
        batch_size=COMPARE_BATCH_SIZE,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=COMPARERS),
        num_cpus=WAITING_STAGE_CPUS,
    )


def encoded_rows(job: IndexJob, rows: "Dataset | Iterable[pa.Table]", workers: Workers) -> Dataset:
    """The compared rows after all stages but the last."""
    settings = job.settings
    size = settings.fetch_batch_size
    todo = _in_blocks(rows, size) if isinstance(rows, Dataset) else _from_blocks(cut_tables(rows, size))
    return todo.map_batches(
        FetchAndDecode.of(settings, job.compare.access, job.checkpoint),
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=workers.max_decoders),
        num_cpus=workers.decoder_cpus,
    ).map_batches(
        Encode,
        fn_constructor_args=(job.checkpoint.name, job.checkpoint.fingerprint),
        fn_constructor_kwargs={
            "device": settings.device,
            "precision": settings.precision,
            "runtime": settings.runtime,
            "cores": workers.cores,
            "revisions": dict(job.checkpoint.revisions),
        },
        batch_size=workers.batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers.encoders,
            max_concurrent_calls_per_actor=workers.concurrent_calls,
            enable_true_multi_threading=True,
        ),
        num_cpus=workers.encoder_cpus,
        num_gpus=workers.gpus,
    )


class WriteTask(Protocol):
    """The context that Ray Data gives to a write task; a task that runs again has the same number."""

    task_idx: int


class QdrantDatasink(Datasink[Tally]):
    """Writes blocks of `viewfinder.indexing.rows` to one collection; afterwards `total` is the tally of all blocks.

    `decided_by` and `machines` as in `viewfinder.indexing.write`. `written` is an optional
    `viewfinder.cluster.progress.WrittenRows` actor.
    """

    def __init__(
        self,
        address: StoreAddress,
        collection: Collection,
        *,
        run_id: str,
        batch_size: int,
        decided_by: Mapping[str, str] = MappingProxyType({}),
        machines: int = 1,
        written: Any = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._address = address
        self._collection = collection
        self._run_id = run_id
        self._batch_size = batch_size
        self._decided_by = dict(decided_by)
        self._machines = machines
        self._written = written
        self.total = Tally()

    def write(self, blocks: Iterable[Block], ctx: WriteTask) -> Tally:
        store = store_at(self._address)
        total = Tally()
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            tally = write_rows(
                store,
                self._collection,
                table,
                run_id=self._run_id,
                batch_size=self._batch_size,
                decided_by=self._decided_by,
                machines=self._machines,
            )
            metrics_of(self._collection.index).add_block(tally)
            total += tally
            if self._written is not None:
                self._written.record.remote(ctx.task_idx, total.outcomes)
        return total

    def on_write_complete(self, write_result: WriteResult[Tally]) -> None:
        # Ray Data passes one result per task, even if the task ran more than once.
        self.total = sum(write_result.write_returns, Tally())

    @property
    def min_rows_per_write(self) -> int | None:
        return self._batch_size


@contextmanager
def unwrap_worker_errors() -> Iterator[None]:
    """Re-raise a `ViewfinderError` from a worker without Ray's wrappers around it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ViewfinderError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        # Ray wraps an error from another process in a subclass of the original class.
        kind = next(each for each in type(cause).__mro__ if each.__module__ == ViewfinderError.__module__)
        raise (kind(*cause.args) if len(cause.args) == 1 else ViewfinderError(str(cause))) from error


def _write_on_workers(
    job: IndexJob, encoded: Dataset, address: StoreAddress, writers: int, progress: IndexingProgress
) -> Tally:
    with followed_writes(progress) as written:
        sink = QdrantDatasink(
            address,
            job.collection,
            run_id=job.run_id,
            batch_size=job.settings.write_batch_size,
            decided_by=job.compare.decided_by,
            machines=_machines_that_decode(),
            written=written,
        )
        encoded.write_datasink(sink, concurrency=writers, ray_remote_args={"num_cpus": WAITING_STAGE_CPUS})
    progress(sink.total.outcomes)  # exact, whatever was lost on the way
    return sink.total


def _machines_that_decode() -> int:
    """The number of nodes with CPUs: the head of a cluster often offers none."""
    return max(1, sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes()))


def _rows_of(job: IndexJob, compared: Compared | None) -> Dataset | Sequence[pa.Table]:
    if compared is None:
        rows = compare_on_workers(job.manifest, replace(job.compare, in_place=True))
        # One block for each task: rows that are compared again have fewer bytes, and blocks that Ray cuts by bytes
        # would end at other rows.
        rows.context.target_max_block_size = None
        return rows
    return _read_files(compared.paths) if isinstance(compared, RowFiles) else compared


def _read_files(paths: Sequence[Path]) -> Dataset:
    """The rows of files on the driver's disk, read on its node.

    `read_parquet` would start another task to list them.
    """
    return _from_blocks(paths_table([path]) for path in paths).map_batches(
        read_part,
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=COMPARERS),
        num_cpus=0,
        label_selector=driver_node(),
    )


def _from_blocks(tables: Iterable[pa.Table]) -> Dataset:
    """One block per table. `from_arrow` would start workers to count the rows, at seconds of CPU each."""
    dataset: Dataset = ray.data.from_blocks(list(tables))
    return dataset


def _in_blocks(rows: Dataset, size: int) -> Dataset:
    """The same rows in blocks of `size`, one per task of the next stage.

    Ray Data reserves a whole core for this step and has no option to change that. Beside a service on two cores no core
    is free, and the job would wait forever.
    """
    blocks = rows.repartition(target_num_rows_per_block=size)
    blocks._logical_plan.dag.ray_remote_args["num_cpus"] = WAITING_STAGE_CPUS
    return blocks


def _plan_workers(settings: Settings, rows: int | None) -> Workers:
    total, free = ray.cluster_resources(), ray.available_resources()
    workers = Workers.plan(settings, total, free).limited_to(rows)
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
        "runtime": settings.runtime,
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


def _encode_texts_task(model: str, fingerprint: str, options: dict[str, Any], texts: list[str]) -> Vectors:
    return Encode(model, fingerprint, **options).encode_texts(texts)[0]


def _encode_images_task(
    model: str,
    fingerprint: str,
    options: dict[str, Any],
    fetch: FetchAndDecode,
    payloads: Mapping[str, Mapping[str, Any]],
) -> dict[str, Vectors]:
    return encode_stored(fetch, Encode(model, fingerprint, **options), payloads)
