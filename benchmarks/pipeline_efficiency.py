"""The job's pictures a second beside what its stages allow: the cores, were they never idle and did nothing else."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from benchmarks.bucket import CAMERA, SMALL, WEB, Bucket, bucket
from benchmarks.discarding import DiscardingStore, discarding_store
from benchmarks.harness import Measurement
from benchmarks.job import Run, index, scratch
from benchmarks.margin import Margin
from benchmarks.processes import cpu_s, family
from jobs.pipeline import COMPARE_BATCH_SIZE
from jobs.reach import Reach
from jobs.rows import read_part
from jobs.sink import write_rows
from jobs.stages import Compare, Encode, FetchAndDecode
from viewfinder.cores import cpu_cores
from viewfinder.images import ImageLimits
from viewfinder.listing import write_manifest
from viewfinder.models import Checkpoint, locate
from viewfinder.objects import ObjectAccess, Objects
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect

# The few are more than are fetched and decoded while the encoder loads its model: that must not count as speed.
WEB_PICTURES = (5_000, 13_000)
CAMERA_PICTURES = (1_500, 4_000)
ALONE = 1_000
ROUNDS = 3


def measure_web(quick: bool) -> Measurement:
    """Pictures/s of the job ÷ (cores ÷ CPU seconds a picture of all its stages, each alone), for the web's pictures."""
    return _measured(WEB, WEB_PICTURES, quick)


def measure_camera(quick: bool) -> Measurement:
    """The same for a camera's, on which the stages have more to do, and Ray has not."""
    return _measured(CAMERA, CAMERA_PICTURES, quick)


def _measured(sizes: Sequence[tuple[int, int]], counts: tuple[int, int], quick: bool) -> Measurement:
    few, many = (12, 60) if quick else counts
    alone, rounds = (24, 1) if quick else (ALONE, ROUNDS)
    checkpoint = locate("demo")
    with (
        scratch() as directory,
        discarding_store() as store,
        bucket(directory / "s3", SMALL if quick else sizes, many) as pictures,
    ):
        runs: dict[int, list[Run]] = {few: [], many: []}
        measured: list[dict[str, float]] = []
        for _ in range(rounds):
            for count, made in runs.items():
                made.append(index(pictures, directory, "--limit", str(count), store=store.url))
            measured.append(stages_alone(pictures, store, checkpoint, directory, alone))
        described = pictures.described
    costs = {name: median(each[name] for each in measured) for name in measured[0]}
    margin = Margin.of({count: [run.seconds for run in made] for count, made in runs.items()})
    cores = cpu_cores()
    range_s = sorted(sum(each.values()) for each in measured)
    stolen = max(0.0, _margin(runs, lambda run: run.stolen_s) / _margin(runs, lambda run: run.seconds) / cores)
    bound = cores * (1 - stolen) / sum(costs.values())
    shown = ", ".join(f"{name} {seconds * 1000:.2f}" for name, seconds in costs.items())
    return Measurement(
        margin.per_second / bound,
        f"job {margin}; the stages allow {bound:.1f} on {cores} cores, {stolen:.0%} of whose "
        f"time the hypervisor kept meanwhile: CPU milliseconds a picture, each alone over "
        f"{alone:,}, S3 endpoint and loopback store included, medians of {rounds}: {shown} (together "
        f"{range_s[0] * 1000:.2f} to {range_s[-1] * 1000:.2f}); the job itself spends "
        f"{_cpu_ms(runs[few][-1], runs[many][-1]):.2f} with Ray and without these two; {runs[many][-1].stages}; model "
        f"demo, {described}",
    )


def _margin(runs: Mapping[int, Sequence[Run]], measure: Callable[[Run], float]) -> float:
    """What the larger runs come to beyond the smaller ones."""
    few, many = (sum(map(measure, runs[count])) for count in sorted(runs))
    return many - few


def _cpu_ms(few: Run, many: Run) -> float:
    """CPU milliseconds of a picture in the job: driver, Ray and workers."""
    return (many.cpu_s - few.cpu_s) / (many.indexed - few.indexed) * 1000


def stages_alone(
    pictures: Bucket, store: DiscardingStore, checkpoint: Checkpoint, directory: Path, count: int
) -> dict[str, float]:
    """CPU seconds a picture of each stage over `count` pictures, one stage after the other in this process.

    The stages are the job's own objects, on tables of its own sizes; what the S3 endpoint and the store spend on them
    is part of it, because here they share the cores.
    """
    settings = Settings.load({})
    with _as_environment(pictures.environment):
        access = ObjectAccess(endpoint_url=pictures.environment["AWS_ENDPOINT_URL"], threads=settings.fetch_threads)
        address = StoreAddress(data_dir=directory / "data", url=store.url)
        with Objects(access) as objects, connect(address) as points:
            listing = Path(tempfile.mkdtemp(prefix="alone-", dir=directory))
            manifest = write_manifest([pictures.source], listing, objects, limit=count)
            spec = {"name": checkpoint.name}
            collection = points.open("alone", checkpoint.name, spec, checkpoint.fingerprint, checkpoint.dimension)
            compare = Compare(Reach(access, address), collection)
            fetch = FetchAndDecode(
                access,
                checkpoint.preprocess,
                ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
                threads=settings.fetch_threads,
                timeout_s=settings.decode_timeout_s,
                memory_bytes=settings.decode_memory_bytes,
            )
            encode = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", cores=1)
            stages: list[tuple[str, int, Callable[[pa.Table], Any]]] = [
                ("compare", COMPARE_BATCH_SIZE, compare),
                ("fetch and decode", settings.fetch_batch_size, fetch),
                ("encode", settings.encode_batch_size or 32, encode),
                (
                    "write",
                    settings.write_batch_size,
                    lambda table: write_rows(
                        points, collection, table, run_id="alone", batch_size=settings.write_batch_size
                    ),
                ),
            ]
            table = pa.concat_tables(read_part(pa.table({"path": [str(path) for path in manifest.paths]})))
            costs = {}
            for name, size, stage in stages:
                for warm_up in (True, False):  # a decoder is started, a model loaded, connections are made
                    rows = table.slice(0, size) if warm_up else table
                    spent, made = _spent(stage, rows, size)
                costs[name] = spent / count
                if isinstance(made[0], pa.Table):
                    table = pa.concat_tables(made)
                print(f"{name} alone: {costs[name] * 1000:.2f} CPU ms a picture", flush=True)
    return costs


def _spent(stage: Callable[[pa.Table], Any], table: pa.Table, size: int) -> tuple[float, list[Any]]:
    """CPU seconds of this process and all its children in the stage, and what it made."""
    before = cpu_s(family(os.getpid()))
    made = [stage(table.slice(start, size)) for start in range(0, len(table), size)]
    time.sleep(0.1)  # what the other side of a socket still does
    return cpu_s(family(os.getpid())) - before, made


@contextmanager
def _as_environment(values: Mapping[str, str]) -> Iterator[None]:
    """boto3 finds credentials in the environment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
