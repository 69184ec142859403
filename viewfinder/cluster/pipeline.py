"""The stages as a Ray Data pipeline: manifest → compare → fetch and decode → encode → write."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from viewfinder.cluster.datasink import QdrantDatasink
from viewfinder.cluster.progress import driver_node
from viewfinder.cluster.resources import COMPARERS, WAITING_STAGE_CPUS, Workers
from viewfinder.errors import ViewfinderError
from viewfinder.indexing.compare import COMPARE_BATCH_SIZE, Compare
from viewfinder.indexing.encode import Encode
from viewfinder.indexing.executor import IndexJob
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.rows import cut_tables, paths_table, read_part
from viewfinder.sources.manifest import Manifest


def compared(manifest: Manifest, compare: Compare) -> Dataset:
    """The compared rows of the manifest.

    The manifest's files are only on the driver's disk, so they are read on its node. `read_parquet` would start another
    task to list them.
    """
    parts = _from_blocks(paths_table([path]) for path in manifest.paths)
    pool = TaskPoolStrategy(size=COMPARERS)
    return parts.map_batches(
        read_part, batch_size=None, batch_format="pyarrow", compute=pool, num_cpus=0, label_selector=driver_node()
    ).map_batches(
        compare, batch_size=COMPARE_BATCH_SIZE, batch_format="pyarrow", compute=pool, num_cpus=WAITING_STAGE_CPUS
    )


def write_all(job: IndexJob, rows: "Dataset | Iterable[pa.Table]", workers: Workers, sink: QdrantDatasink) -> None:
    """Run compared rows through the remaining stages into the sink."""
    settings = job.settings
    size = settings.fetch_batch_size
    todo = _in_blocks(rows, size) if isinstance(rows, Dataset) else _from_blocks(cut_tables(rows, size))
    encoded = todo.map_batches(
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
    encoded.write_datasink(sink, concurrency=workers.writers, ray_remote_args={"num_cpus": WAITING_STAGE_CPUS})


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
