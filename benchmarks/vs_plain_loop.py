"""The job beside plain loops over the same bucket: pictures a second from S3 to vectors, all on all cores."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bucket import CAMERA, SMALL, Bucket, bucket
from benchmarks.discarding import DiscardingStore, discarding_store
from benchmarks.harness import Measurement, WrongAnswerError
from benchmarks.job import ROOT, TIMEOUT_S, index, scratch
from benchmarks.margin import Margin
from benchmarks.transformers_clip import convert
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.encoder import Encoder, Vectors

# For each core. The job decodes while it loads its model: its shorter run must have some left by then, or that would
# count as speed.
JOB_PICTURES = (500, 1000)
LOOP_PICTURES = (100, 500)
ROUNDS = 3
LEAST_COSINE = 0.99


@dataclass(frozen=True)
class Compared:
    """The job's speed, and of each library's loop its speed and the least cosine between its vectors and the job's."""

    job: Margin
    loops: Mapping[str, Margin]
    cosines: Mapping[str, float]
    described: str

    def beside(self, library: str) -> Measurement:
        """Pictures/s of the job ÷ those of a loop; no value where the two do not make the same vectors."""
        loop, cosine = self.loops[library], self.cosines[library]
        if not cosine >= LEAST_COSINE:  # so, because NaN compares false
            raise WrongAnswerError(f"the cosine to the loop's vectors falls to {cosine:.4f}; {LEAST_COSINE} is needed")
        whole, whole_s = self.job.nearest(loop.many)
        with_start_up = whole / whole_s / (loop.many / loop.many_s)
        return Measurement(
            self.job.per_second / loop.per_second,
            f"job {self.job}; {library} + DataLoader {loop}; whole runs with start-up "
            f"{with_start_up:.2f}; {cpu_cores()} worker processes in the loop, model demo, "
            f"{self.described}; the loop keeps its vectors, the job writes them to a loopback store; least cosine "
            f"between them {cosine:.4f}",
        )


def measure_open_clip(quick: bool) -> Measurement:
    """Beside open_clip in a DataLoader."""
    return _compared(quick).beside("open_clip")


def measure_transformers(quick: bool) -> Measurement:
    """Beside Hugging Face Transformers' CLIPModel and CLIPProcessor in a DataLoader."""
    return _compared(quick).beside("transformers")


@functools.cache
def _compared(quick: bool) -> Compared:
    """The runs, made once for both figures; in turn, so that a busy minute falls on all."""
    cores = cpu_cores()
    of_job, of_loops = (
        (8, 40) if quick else (few * cores, many * cores) for few, many in (JOB_PICTURES, LOOP_PICTURES)
    )
    rounds = 1 if quick else ROUNDS
    checkpoint = locate("demo")
    job_s: dict[int, list[float]] = {count: [] for count in of_job}
    loop_s: dict[str, dict[int, list[float]]] = {
        library: {count: [] for count in of_loops} for library in ("open_clip", "transformers")
    }
    vectors: dict[str, Vectors] = {}
    with scratch() as directory, discarding_store() as store:
        models = {
            "open_clip": checkpoint.weights.parent,
            "transformers": convert(checkpoint, directory / "transformers"),
        }
        with bucket(directory / "s3", SMALL if quick else CAMERA, max(of_job)) as pictures:
            for jobs, loops in [*zip(of_job, of_loops, strict=True)] * rounds:
                job_s[jobs].append(_job(pictures, directory, store, jobs))
                for library, model in models.items():
                    seconds, vectors[library] = _loop(library, model, pictures, directory, loops)
                    loop_s[library][loops].append(seconds)
            cosines = {library: _least_cosine(checkpoint, pictures, made) for library, made in vectors.items()}
            described = pictures.described
    return Compared(
        job=Margin.of(job_s),
        loops={library: Margin.of(spent) for library, spent in loop_s.items()},
        cosines=cosines,
        described=described,
    )


def _job(pictures: Bucket, directory: Path, store: DiscardingStore, count: int) -> float:
    before = store.received()
    run = index(pictures, directory, "--max-objects", str(count), store=store.url)
    if (run.indexed, store.received() - before) != (count, count):
        raise RuntimeError(f"{run.indexed} of {count} indexed, {store.received() - before} written")
    return run.seconds


def _loop(library: str, model: Path, pictures: Bucket, directory: Path, count: int) -> tuple[float, Vectors]:
    name, vectors = pictures.source.removeprefix("s3://"), directory / f"{library}.npy"
    command = [sys.executable, "-m", "benchmarks.plain_loop", library, str(model), name, str(count), str(vectors)]
    environment = os.environ | pictures.environment
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=TIMEOUT_S)
    seconds = time.perf_counter() - began
    print(f"the {library} loop took {seconds:.1f} s over {count:,} objects", file=sys.stderr, flush=True)
    return seconds, np.load(vectors)


def _least_cosine(checkpoint: Checkpoint, pictures: Bucket, vectors: Vectors) -> float:
    """Between a loop's vectors and ours, over the different pictures of the bucket."""
    limits = ImageLimits(max_bytes=10**9, max_pixels=10**9)
    files = pictures.files[: len(vectors)]  # keys go through them in turn
    pixels = np.stack([decode(path.read_bytes(), checkpoint.preprocess, limits).pixels for path in files])
    ours = Encoder.load(checkpoint, device="cpu", precision="float32").encode_images(pixels)
    return float((ours * vectors[: len(ours)]).sum(axis=1).min())
