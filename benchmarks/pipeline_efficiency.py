"""Images per second of the job ÷ the rate that its stages would allow if the cores did nothing else."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from benchmarks.bucket import CAMERA, SMALL, WEB, Bucket, bucket
from benchmarks.discarding import DiscardingStore, discarding_store
from benchmarks.harness import Measurement, NoFigureError
from benchmarks.job import Run, index, scratch
from benchmarks.margin import Margin
from benchmarks.processes import cpu_s, family
from benchmarks.vit import need_cuda, vit_checkpoint
from viewfinder.indexing.compare import COMPARE_BATCH_SIZE, Compare
from viewfinder.indexing.encode import Encode
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.rows import paths_table, read_part
from viewfinder.indexing.write import write_rows
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.devices import Device, Precision
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.manifest import write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.store import StoreAddress, connect
from viewfinder.store.schema import ModelIdentity

# Per core. The smaller number is more than are fetched and decoded while the encoder loads its model, so that this does
# not count as speed.
WEB_IMAGES = (2_500, 6_500)
CAMERA_IMAGES = (750, 2_000)
ALONE = 1_000
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """Cost of a stage alone per image: CPU seconds of all processes, and wall seconds."""

    cpu_s: float
    seconds: float


def measure_web(quick: bool) -> Measurement:
    """Images/s of the job ÷ (cores ÷ CPU seconds per image of all stages, each alone), for images of web size."""
    return _measured(WEB, WEB_IMAGES, quick, "cpu")


def measure_camera(quick: bool) -> Measurement:
    """The same for camera images, which cost the stages more and Ray no more."""
    return _measured(CAMERA, CAMERA_IMAGES, quick, "cpu")


def measure_gpu(quick: bool) -> Measurement:
    """Images/s of the job on a GPU ÷ those of its bottleneck alone; raise `NoFigureError` without a GPU."""
    need_cuda()
    return _measured(WEB, WEB_IMAGES, quick, "cuda")


def _measured(sizes: Sequence[tuple[int, int]], each: tuple[int, int], quick: bool, device: Device) -> Measurement:
    cores = cpu_cores()
    few, many = (12, 60) if quick else (each[0] * cores, each[1] * cores)
    alone, rounds = (24, 1) if quick else (ALONE, ROUNDS)
    on_gpu = device == "cuda"
    checkpoint, name = (vit_checkpoint(quick), "ViT-B-32") if on_gpu else (locate("demo"), "demo")
    precision: Precision = "auto" if on_gpu else "float32"
    settings = {"model": checkpoint.name, "device": device, "precision": precision}
    with (
        scratch() as directory,
        discarding_store() as store,
        bucket(directory / "s3", SMALL if quick else sizes, many) as images,
    ):
        runs: dict[int, list[Run]] = {few: [], many: []}
        measured: list[dict[str, Cost]] = []
        for _ in range(rounds):
            for count, made in runs.items():
                made.append(index(images, directory, "--max-objects", str(count), store=store.url, **settings))
            measured.append(stages_alone(images, store, checkpoint, directory, alone, device, precision))
        described = images.described
    costs = {
        stage: Cost(median(one[stage].cpu_s for one in measured), median(one[stage].seconds for one in measured))
        for stage in measured[0]
    }
    margin = Margin.of({count: [run.seconds for run in made] for count, made in runs.items()})
    stolen = max(0.0, _margin(runs, lambda run: run.stolen_s) / _margin(runs, lambda run: run.seconds) / cores)
    bound = allowed(costs, cores * (1 - stolen), on_gpu=on_gpu)
    if margin.per_second > bound and not quick:
        raise NoFigureError(
            f"the job reached {margin}, but its stages allow only {bound:.1f}: the shorter run ended before its model "
            "was loaded, or the machine did other work"
        )
    sums = sorted(sum(cost.cpu_s for cost in one.values()) for one in measured)
    shown = ", ".join(f"{stage} {cost.cpu_s * 1000:.2f}" for stage, cost in costs.items())
    encoding = f"; encode alone {1 / costs['encode'].seconds:,.0f} images/s" if on_gpu else ""
    return Measurement(
        margin.per_second / bound,
        f"job {margin}; the stages allow {bound:.1f} on {cores} cores, {stolen:.0%} of whose "
        f"time the hypervisor took: CPU milliseconds per image, each alone over "
        f"{alone:,}, S3 endpoint and loopback store included, medians of {rounds}: {shown} (together "
        f"{sums[0] * 1000:.2f} to {sums[-1] * 1000:.2f}){encoding}; the job itself spends "
        f"{_cpu_ms(runs[few][-1], runs[many][-1]):.2f} with Ray and without these two; {runs[many][-1].stages}; model "
        f"{name}, {described}",
    )


def allowed(costs: Mapping[str, Cost], cores: float, *, on_gpu: bool) -> float:
    """Images per second of all stages, which share the cores; on a GPU, of the slower of encoding and the rest."""
    if not on_gpu:
        return cores / sum(cost.cpu_s for cost in costs.values())
    others = sum(cost.cpu_s for stage, cost in costs.items() if stage != "encode")
    return min(cores / others, 1 / costs["encode"].seconds)


def _margin(runs: Mapping[int, Sequence[Run]], measure: Callable[[Run], float]) -> float:
    """The sum over the larger runs minus that over the smaller ones."""
    few, many = (sum(map(measure, runs[count])) for count in sorted(runs))
    return many - few


def _cpu_ms(few: Run, many: Run) -> float:
    """CPU milliseconds per image in the job: driver, Ray and workers."""
    return (many.cpu_s - few.cpu_s) / (many.indexed - few.indexed) * 1000


def stages_alone(
    images: Bucket,
    store: DiscardingStore,
    checkpoint: Checkpoint,
    directory: Path,
    count: int,
    device: Device,
    precision: Precision,
) -> dict[str, Cost]:
    """Cost of each stage per image, over `count` images, one stage after the other in this process.

    The stages are the job's own objects, on tables of the job's sizes. CPU time of the S3 endpoint and the store
    counts, because they share the cores.
    """
    settings = Settings.load({})
    with _as_environment(images.environment):
        access = ObjectAccess(endpoint_url=images.environment["AWS_ENDPOINT_URL"], threads=settings.fetch_threads)
        address = StoreAddress(data_dir=directory / "data", url=store.url)
        with Objects(access) as objects, connect(address) as points:
            listing = Path(tempfile.mkdtemp(prefix="alone-", dir=directory))
            manifest = write_manifest([images.source], listing, objects, max_objects=count)
            collection = points.collections.open("alone", ModelIdentity.of(checkpoint))
            compare = Compare(access, address, collection)
            fetch = FetchAndDecode.of(settings, access, checkpoint)
            on_gpu = device == "cuda"
            cores = None if on_gpu else 1
            encode = Encode(
                checkpoint.name, checkpoint.fingerprint, device=device, precision=precision, runtime="auto", cores=cores
            )
            stages: list[tuple[str, int, Callable[[pa.Table], Any]]] = [
                ("compare", COMPARE_BATCH_SIZE, compare),
                ("fetch and decode", settings.fetch_batch_size, fetch),
                ("encode", settings.encode_batch_size or (256 if on_gpu else 32), encode),
                (
                    "write",
                    settings.write_batch_size,
                    lambda table: write_rows(
                        points, collection, table, run_id="alone", batch_size=settings.write_batch_size
                    ),
                ),
            ]
            table = pa.concat_tables(read_part(paths_table(manifest.paths)))
            costs = {}
            for name, size, stage in stages:
                for warm_up in (True, False):  # starts a decoder, loads a model, opens connections
                    rows = table.slice(0, size) if warm_up else table
                    spent, made = _spent(stage, rows, size)
                costs[name] = Cost(spent.cpu_s / count, spent.seconds / count)
                if isinstance(made[0], pa.Table):
                    table = pa.concat_tables(made)
                print(f"{name} alone: {costs[name].cpu_s * 1000:.2f} CPU ms per image", flush=True)
    return costs


def _spent(stage: Callable[[pa.Table], Any], table: pa.Table, size: int) -> tuple[Cost, list[Any]]:
    """Run a stage: CPU seconds of this process and its children, wall seconds, and the results."""
    before, began = cpu_s(family(os.getpid())), time.perf_counter()
    made = [stage(table.slice(start, size)) for start in range(0, len(table), size)]
    seconds = time.perf_counter() - began
    time.sleep(0.1)  # for work that the other side of a socket still does
    return Cost(cpu_s(family(os.getpid())) - before, seconds), made


@contextmanager
def _as_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables, in which boto3 finds credentials."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
