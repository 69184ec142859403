"""Time until a program does its work, against the start of the libraries that others need for it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from benchmarks.bucket import WEB, laid_out
from benchmarks.harness import Measurement
from benchmarks.job import ROOT, environment_of, index, scratch
from benchmarks.ratio import in_turn
from benchmarks.vit import model_name, vit_checkpoint
from viewfinder.models.checkpoint import locate

IMAGES = 600
ROUNDS = 5
START_RAY = "import ray.data; ray.init(address='local', num_cpus=4, include_dashboard=False, log_to_driver=False)"
# As in open_clip's README. One image at a time, so that the first does not wait for a batch.
PLAIN_LOOP = """
import sys
from pathlib import Path

import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{sys.argv[1]}")
model.eval()
with torch.inference_mode():
    for path in sorted(Path(sys.argv[2]).iterdir()):
        vector = model.encode_image(preprocess(Image.open(path).convert("RGB"))[None], normalize=True)
        print("encoded", vector.shape, file=sys.stderr, flush=True)
"""

# What the process of a replica imports, less Ray Serve; then the model of its collection. Neither program is measured
# while it ends, which takes half a second.
REPLICA = """
import os
import sys

from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService

checkpoint = locate(sys.argv[1], expect=sys.argv[2], exported=True)
encoder = Encoder.load(checkpoint, device="cpu", runtime="openvino", threads=1, towers=["text"])
encoder.encode_texts(["a red car"])
os._exit(0)
"""
IMPORT_TORCH = "import os, torch; os._exit(0)"


def measure_rerun(quick: bool) -> Measurement:
    """Seconds of the job on Ray over an unchanged directory ÷ of importing Ray Data and starting Ray."""
    with scratch() as directory:
        images = laid_out(directory / "bucket", WEB, 40 if quick else IMAGES)
        index(images, directory, RAY_ADDRESS=None)

        def rerun() -> None:
            if (indexed := index(images, directory, RAY_ADDRESS=None).indexed) != 0:
                raise RuntimeError(f"the second run indexed {indexed} images")

        def start_ray() -> None:
            subprocess.run([sys.executable, "-c", START_RAY], env=environment_of(directory), cwd=ROOT, check=True)

        ratio = in_turn("rerun_start", rerun, start_ray, rounds=1 if quick else ROUNDS)
    return Measurement(
        ratio.value,
        f"job {ratio.first_ms / 1000:.1f} s, import ray.data and ray.init {ratio.second_ms / 1000:.1f} s, {ratio}; "
        f"{images.count} unchanged objects from a local directory, embedded store, model demo",
    )


def measure_first_vector(quick: bool) -> Measurement:
    """Seconds from the start of `viewfinder index` to its first stored vectors ÷ those of a loop with open_clip."""
    with scratch() as directory:
        images = laid_out(directory / "bucket", WEB, 40 if quick else IMAGES)
        model = locate("demo")

        def job() -> None:
            data = tempfile.mkdtemp(prefix="data-", dir=directory)
            given = {"VIEWFINDER_MODEL": "demo", "VIEWFINDER_DATA_DIR": data, "VIEWFINDER_DEVICE": "cpu"}
            _run_until(" indexed)", ["-m", "viewfinder", "index", images.source], environment_of(directory, **given))

        def loop() -> None:
            command = ["-c", PLAIN_LOOP, str(model.weights.parent), images.source]
            _run_until("encoded", command, environment_of(directory))

        ratio = in_turn("first_vector", job, loop, rounds=1 if quick else ROUNDS)
    return Measurement(
        ratio.value,
        f"job {ratio.first_ms / 1000:.1f} s until the first batch is stored, open_clip {ratio.second_ms / 1000:.1f} s "
        f"until the first vector, {ratio}; {images.count} images, {images.described}, embedded store, model demo",
    )


def measure_replica(quick: bool) -> Measurement:
    """Seconds from the start of a process with the service to its first text vector ÷ of `import torch` alone."""
    with scratch() as directory:
        model = "demo-small" if quick else str(vit_checkpoint(quick).weights.parent)
        fingerprint = locate(model).fingerprint  # a replica has it from the collection
        environment = environment_of(directory, HF_HOME=str(directory / "home"))

        def run(*arguments: str) -> None:
            command = [sys.executable, *arguments]
            subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

        run("-m", "viewfinder", "models", "prepare", model)
        ratio = in_turn(
            "replica_start",
            lambda: run("-c", REPLICA, model, fingerprint),
            lambda: run("-c", IMPORT_TORCH),
            rounds=1 if quick else 2 * ROUNDS,
        )
    return Measurement(
        ratio.value,
        f"imports of the service and first vector {ratio.first_ms / 1000:.2f} s, import torch "
        f"{ratio.second_ms / 1000:.2f} s, {ratio}; "
        f"{model_name(quick)} exported before, without Ray's own start of a worker",
    )


def _run_until(words: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run Python until it writes these words on standard error, then kill it with its children."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if words in line:
                    return
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    raise RuntimeError(f"python {arguments[0]} {arguments[1][:20]} ended without {words!r}: {''.join(lines)[-500:]}")
