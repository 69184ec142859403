"""Images per second from S3 to vectors: the job against plain loops over the same bucket, all on all cores."""

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
from viewfinder.arrays import Vectors
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.encoder import Encoder

# Per core. The job decodes while it loads its model; its shorter run must have images left then, or that would count as
# speed.
JOB_IMAGES = (500, 1000)
LOOP_IMAGES = (100, 500)
ROUNDS = 3
MINIMUM_COSINE = 0.99


@dataclass(frozen=True)
class Compared:
    """Speed of the job and of each library's loop, and the minimum cosine between their vectors."""

    job: Margin
    loops: Mapping[str, Margin]
    cosines: Mapping[str, float]
    described: str

    def beside(self, library: str) -> Measurement:
        """Images/s of the job ÷ those of a loop; raise `WrongAnswerError` if their vectors differ."""
        loop, cosine = self.loops[library], self.cosines[library]
        if not cosine >= MINIMUM_COSINE:  # `not >=`, because NaN compares false
            raise WrongAnswerError(
                f"the cosine to the loop's vectors falls to {cosine:.4f}; {MINIMUM_COSINE} is needed"
            )
        whole, whole_s = self.job.nearest(loop.many)
        with_start_up = whole / whole_s / (loop.many / loop.many_s)
        return Measurement(
            self.job.per_second / loop.per_second,
            f"job {self.job}; {library} + DataLoader {loop}; whole runs with start-up "
            f"{with_start_up:.2f}; {cpu_cores()} worker processes in the loop, model demo, "
            f"{self.described}; the loop keeps its vectors, the job writes them to a loopback store; minimum cosine "
            f"between them {cosine:.4f}",
        )


def measure_open_clip(quick: bool) -> Measurement:
    """Against open_clip in a DataLoader."""
    return _compared(quick).beside("open_clip")


def measure_transformers(quick: bool) -> Measurement:
    """Against Hugging Face Transformers' CLIPModel and CLIPProcessor in a DataLoader."""
    return _compared(quick).beside("transformers")


@functools.cache
def _compared(quick: bool) -> Compared:
    """Run once for both figures; in turn, so that a busy minute affects all."""
    cores = cpu_cores()
    of_job, of_loops = ((8, 40) if quick else (few * cores, many * cores) for few, many in (JOB_IMAGES, LOOP_IMAGES))
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
        with bucket(directory / "s3", SMALL if quick else CAMERA, max(of_job)) as images:
            for jobs, loops in [*zip(of_job, of_loops, strict=True)] * rounds:
                job_s[jobs].append(_job(images, directory, store, jobs))
                for library, model in models.items():
                    seconds, vectors[library] = _loop(library, model, images, directory, loops)
                    loop_s[library][loops].append(seconds)
            cosines = {library: _minimum_cosine(checkpoint, images, made) for library, made in vectors.items()}
            described = images.described
    return Compared(
        job=Margin.of(job_s),
        loops={library: Margin.of(spent) for library, spent in loop_s.items()},
        cosines=cosines,
        described=described,
    )


def _job(images: Bucket, directory: Path, store: DiscardingStore, count: int) -> float:
    before = store.received()
    run = index(images, directory, "--max-objects", str(count), store=store.url)
    if (run.indexed, store.received() - before) != (count, count):
        raise RuntimeError(f"{run.indexed} of {count} indexed, {store.received() - before} written")
    return run.seconds


def _loop(library: str, model: Path, images: Bucket, directory: Path, count: int) -> tuple[float, Vectors]:
    name, vectors = images.source.removeprefix("s3://"), directory / f"{library}.npy"
    command = [sys.executable, "-m", "benchmarks.plain_loop", library, str(model), name, str(count), str(vectors)]
    environment = os.environ | images.environment
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=TIMEOUT_S)
    seconds = time.perf_counter() - began
    print(f"the {library} loop took {seconds:.1f} s over {count:,} objects", file=sys.stderr, flush=True)
    return seconds, np.load(vectors)


def _minimum_cosine(checkpoint: Checkpoint, images: Bucket, vectors: Vectors) -> float:
    """Minimum cosine between a loop's vectors and ours, over the distinct images of the bucket."""
    limits = ImageLimits(max_bytes=10**9, max_pixels=10**9)
    files = images.files[: len(vectors)]  # keys repeat them in order
    pixels = np.stack([decode(path.read_bytes(), checkpoint.preprocess, limits).pixels for path in files])
    ours = Encoder.load(checkpoint, device="cpu", precision="float32").encode_images(pixels)
    return float((ours * vectors[: len(ours)]).sum(axis=1).min())
