"""The pipeline in one chain: manifest → compare → fetch and decode → encode → write."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from viewfinder.cluster import metrics
from viewfinder.cluster.datasink import QdrantDatasink, Tally
from viewfinder.errors import ViewfinderError
from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.rows import read_part
from viewfinder.indexing.stages import Compare, Encode, FetchAndDecode
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection

logger = logging.getLogger("viewfinder.index")

# Ids asked about in one request; larger ones gain nothing and hold the store's one thread longer.
COMPARE_BATCH_SIZE = 1000
# Waiting for Qdrant or S3 costs no core, so these stages must not take one from the decoders.
WAITING_CPUS = 0.1
# A decoder, an encoder, and some stages that wait.
ONE_OF_EACH_CPUS = 2.3
# What a Ray of the job's own has beside its CPUs, which are more than there are cores; nothing claims it.
CORES = "viewfinder_cores"
# Without GPUs. Each encoder holds a model and spends 20 seconds of a core on its start; each of its threads holds what
# its part of a batch becomes in a layer, hundreds of megabytes with the largest models.
CPUS_OF_AN_ENCODER = 8
# Batches that a GPU's encoder has in hand: one is made ready while the other is computed (benchmarks/hand_over.py).
CALLS_OF_A_GPU = 2
# On a CPU, pictures of one call in each of an encoder's threads: with 8, they cost a fifth more.
PICTURES_OF_A_THREAD = 32
# More streams gain nothing before there is an encoder that is faster than four cores; each is a process to start.
CPUS_OF_A_WRITER, WRITERS = 4, 4
# Listing and comparing outrun everything after them; more tasks would only be more processes.
COMPARERS = 4
# What widens a stage that holds the others back.
WIDENED_BY = {
    "compare": "a larger Qdrant, or one nearer to the workers",
    "fetch": "more VIEWFINDER_FETCH_THREADS, or workers nearer to the bucket",
    "decode": "more CPU cores: further nodes need no GPU",
    "encode": "more GPUs, one encoder each; without GPUs more CPU cores",
    "write": "more VIEWFINDER_WRITERS, or more shards and nodes of Qdrant",
}
# Spot GPUs can take longer to come than Ray Data's 30 minutes.
NO_PROGRESS_TIMEOUT_S = 4 * 3600


@dataclass(frozen=True)
class Stage:
    """One stage's work: busy seconds summed over its workers, with what failed, and objects that came out of it."""

    name: str
    objects: int
    seconds: float
    workers: float

    @property
    def rate(self) -> float | None:
        """Objects a second of one worker."""
        return self.objects / self.seconds if self.seconds else None

    @property
    def capacity(self) -> float | None:
        """Objects a second of all workers together, were they never idle."""
        return None if self.rate is None else self.rate * self.workers

    @property
    def seconds_each(self) -> float:
        """How long each of its workers was busy: stages have different numbers of objects to do."""
        return self.seconds / self.workers


@dataclass(frozen=True)
class Outcome:
    """What came of all objects, and how busy each stage was with them."""

    tally: Tally
    stages: Sequence[Stage]

    @property
    def slowest(self) -> str | None:
        """The stage that holds the others back, its workers being the busiest: widen it first."""
        busiest = max(self.stages, key=lambda each: each.seconds_each)
        return busiest.name if busiest.seconds else None


@dataclass(frozen=True)
class Pass:
    """What one pass came to."""

    manifest: Manifest
    outcome: Outcome
    pruned: int

    @property
    def counts(self) -> dict[str, int]:
        """Objects by what became of them: listed = unchanged + indexed + failed; and points pruned."""
        tally = self.outcome.tally
        return {
            "listed": self.manifest.listed,
            "unchanged": tally.unchanged,
            "indexed": tally.indexed,
            "failed": tally.failed,
            "pruned": self.pruned,
        }

    @property
    def expected(self) -> int:
        """How many points of these sources the collection holds now."""
        tally = self.outcome.tally
        return self.manifest.listed - tally.failed + tally.stale - tally.withheld

    @property
    def changed(self) -> int:
        """How many points it wrote or deleted."""
        return self.outcome.tally.indexed + self.pruned


@dataclass(frozen=True)
class Workers:
    """How many encoders there are and what each takes of the cluster; decoders for the rest of it; writers."""

    encoders: int
    decoders: int
    most_decoders: int | None
    decoder_cpus: float
    encoder_cpus: float
    gpus: float
    calls: int
    cores: int | None
    batch_size: int
    writers: int

    @classmethod
    def plan(cls, settings: Settings, total: Mapping[str, float], free: Mapping[str, float]) -> "Workers":
        """One encoder for each GPU; without GPUs one for every eight cores, and these are its to share with decoders.

        The decoders share those cores: an encoder on the CPU claims a single one from the scheduler, so that both
        stages always fit, and the operating system divides the time. Beside a service that holds most of a small
        machine both claim less, or the job would wait for ever; a cluster with nothing free yet will grow.
        A Ray of the job's own does not, and decodes in as many processes as there are cores: with a third on two cores
        reading a picture cost half as much again, and the encoder fell behind and was alone at the end.
        """
        gpus = int(total.get("GPU", 0))
        cpus = int(total.get(CORES, total.get("CPU", 1)))
        free_cpus = free.get("CPU", 0.0)
        share = free_cpus / ONE_OF_EACH_CPUS if 0 < free_cpus < ONE_OF_EACH_CPUS else 1.0
        on_gpu = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
        encoders = settings.encoders or max(1, gpus if on_gpu else cpus // CPUS_OF_AN_ENCODER)
        cores = None if on_gpu else max(1, min(cpus // encoders, CPUS_OF_AN_ENCODER))
        return cls(
            encoders=encoders,
            decoders=min(cpus, max(1, int(total.get("CPU", 1)) - encoders)),
            most_decoders=cpus if CORES in total else None,
            decoder_cpus=round(share, 2),
            # Not quite the decoders': stages with equal demands are fused, and would take turns in one process.
            encoder_cpus=round(0.9 * share, 2),
            gpus=1 if on_gpu else 0,
            calls=CALLS_OF_A_GPU if on_gpu else 1,
            cores=cores,
            batch_size=settings.encode_batch_size or (256 if cores is None else PICTURES_OF_A_THREAD * cores),
            writers=settings.writers or (WRITERS if on_gpu else min(WRITERS, max(1, cpus // CPUS_OF_A_WRITER))),
        )

    def wait(self, total: Mapping[str, float], free: Mapping[str, float]) -> str | None:
        """What the encoders will have to wait for, in words; None where they can start."""
        if free.get("GPU", 0.0) >= self.gpus:
            return None
        gpus = int(total.get("GPU", 0))
        taken = f"all {gpus} of this cluster are in use" if gpus else "this cluster has none yet"
        return f"Waiting for a GPU: {taken}. VIEWFINDER_DEVICE=cpu encodes without."


def actions(manifest: Manifest, compare: Compare) -> dict[str, int]:
    """How many of the listed objects need what, nothing being done."""
    rows = _compared(manifest, compare).select_columns(["action", "count"])
    with told_as_ours():
        return count_actions(rows.iter_batches(batch_format="pyarrow"))


def count_actions(tables: Iterable[pa.Table]) -> dict[str, int]:
    """How many objects need what, by the action of their rows."""
    counts: Counter[str] = Counter()
    for table in tables:
        for action, count in zip(table["action"].to_pylist(), table["count"].to_pylist(), strict=True):
            counts[action] += count
    return dict(counts)


def index_objects(
    manifest: Manifest,
    compare: Compare,
    collection: Collection,
    checkpoint: Checkpoint,
    settings: Settings,
    run_id: str,
    progress: Any = None,
    compared: Sequence[pa.Table] | None = None,
) -> Outcome:
    """Bring every object of the manifest into the collection; the tally accounts for each of them.

    `compared` are their rows where they have been compared already.
    """
    total, free = ray.cluster_resources(), ray.available_resources()
    workers = Workers.plan(settings, total, free)
    if wait := workers.wait(total, free):
        logger.warning(wait)
    fetch_and_decode = FetchAndDecode(
        compare.reach.access,
        checkpoint.preprocess,
        ImageLimits.of(settings),
        threads=settings.fetch_threads,
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_bytes,
    )
    encoder = {"device": settings.device, "precision": settings.precision, "cores": workers.cores}
    sink = QdrantDatasink(
        compare.reach.address, collection, run_id=run_id, batch_size=settings.write_batch_size, progress=progress
    )
    size = settings.fetch_batch_size
    todo = _in_blocks(_compared(manifest, compare), size) if compared is None else _from_blocks(_cut(compared, size))
    rows = todo.map_batches(
        fetch_and_decode,
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=workers.most_decoders),
        num_cpus=workers.decoder_cpus,
    ).map_batches(
        Encode,
        fn_constructor_args=(checkpoint.name, checkpoint.fingerprint),
        fn_constructor_kwargs=encoder,
        batch_size=workers.batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers.encoders, max_concurrent_calls_per_actor=workers.calls, enable_true_multi_threading=True
        ),
        num_cpus=workers.encoder_cpus,
        num_gpus=workers.gpus,
    )
    with told_as_ours(), metrics.under_way(collection.index, manifest.listed):
        rows.write_datasink(sink, concurrency=workers.writers, ray_remote_args={"num_cpus": WAITING_CPUS})
    comparers = min(COMPARERS, len(manifest.paths)) if compared is None else 1
    return Outcome(sink.total, _stages(sink.total, workers, settings, comparers))


@contextmanager
def told_as_ours() -> Iterator[None]:
    """Raise what a stage raised on a worker, where it is an error of ours, without Ray's layers around it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ViewfinderError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        # Ray gives an error that crossed processes a class of its own, derived from the real one.
        kind = next(each for each in type(cause).__mro__ if each.__module__ == ViewfinderError.__module__)
        raise (kind(*cause.args) if len(cause.args) == 1 else ViewfinderError(str(cause))) from error


def configure_ray_data() -> None:
    """Fail on the first lost block, survive a few lost actors, wait for slow clusters, and keep quiet."""
    context = DataContext.get_current()
    context.max_errored_blocks = 0
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.enable_progress_bars = False
    context.enable_auto_log_stats = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # About a small manifest that needs fewer tasks than there may be.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks", category=UserWarning)


def _compared(manifest: Manifest, compare: Compare) -> Dataset:
    """The listed objects with what is to be done about each.

    The manifest is read where it was written: its files lie on the driver's disk and on no other node's. (By our own
    two lines: `read_parquet` would first list the files in a task of its own.)
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    parts = _from_blocks([pa.table({"path": [str(path)]}) for path in manifest.paths])
    few = TaskPoolStrategy(size=COMPARERS)
    return parts.map_batches(
        read_part, batch_size=None, batch_format="pyarrow", compute=few, num_cpus=0, label_selector=here
    ).map_batches(compare, batch_size=COMPARE_BATCH_SIZE, batch_format="pyarrow", compute=few, num_cpus=WAITING_CPUS)


def _from_blocks(tables: list[pa.Table]) -> Dataset:
    """Each table a block. (`from_arrow` starts workers, seconds of a core each, to be told how many rows they have.)"""
    dataset: Dataset = ray.data.from_blocks(tables)
    return dataset


def _cut(tables: Sequence[pa.Table], size: int) -> list[pa.Table]:
    """Tables of at most `size` rows."""
    return [table.slice(start, size) for table in tables for start in range(0, len(table), size)]


def _in_blocks(rows: Dataset, size: int) -> Dataset:
    """The same rows in blocks of `size`, one for each task of the next stage.

    Ray Data wants a whole core for this hand-over and has no argument to say otherwise; beside a service on two cores
    there is none, and the job would wait for ever.
    """
    blocks = rows.repartition(target_num_rows_per_block=size)
    blocks._logical_plan.dag.ray_remote_args["num_cpus"] = WAITING_CPUS
    return blocks


def _stages(tally: Tally, workers: Workers, settings: Settings, comparers: int) -> list[Stage]:
    objects = tally.indexed + tally.unchanged + tally.failed
    return [
        Stage("compare", objects, tally.compare_s, comparers),
        Stage("fetch", tally.pictures, tally.fetch_s, workers.decoders * settings.fetch_threads),
        Stage("decode", tally.pictures, tally.decode_s, workers.decoders),
        Stage("encode", tally.indexed, tally.encode_s, workers.encoders),
        Stage("write", tally.indexed, tally.write_s, workers.writers),
    ]
