"""Run the index job as a user does, as a separate program, and measure its time and memory."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bucket import Bucket
from benchmarks.processes import Memory, Watch, stolen_s

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Run:
    """A finished job: wall seconds, summary.json, peak memory, CPU seconds, and seconds taken by the hypervisor."""

    seconds: float
    summary: Mapping[str, Any]
    memory: Memory
    cpu_s: float = 0.0
    stolen_s: float = 0.0

    @property
    def indexed(self) -> int:
        return int(self.summary["counts"]["indexed"])

    @property
    def stages(self) -> str:
        """Busy seconds of each stage's workers, summed, and the bottleneck."""
        busy = ", ".join(f"{stage['name']} {stage['seconds']:.1f}" for stage in self.summary["stages"])
        return f"busy seconds {busy}; bottleneck {self.summary['bottleneck']}"


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary directory with a short path, because Ray's sockets are below it."""
    path = Path(tempfile.mkdtemp(prefix="vf-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def index(
    bucket: Bucket, directory: Path, *flags: str, model: str = "demo", store: str | None = None, **settings: object
) -> Run:
    """Run the job over the bucket into the Qdrant at `store`, or into the embedded store in `directory`.

    `settings` are those of viewfinder; `RAY_ADDRESS` may be one of them. Raise `RuntimeError` if the job fails.
    """
    report = Path(tempfile.mkdtemp(prefix="report-", dir=directory))
    given = {
        "MODEL": model,
        "DATA_DIR": directory / "data",
        "QDRANT_URL": store,
        "DEVICE": "cpu",
        "PRECISION": "float32",
        "RAY_ADDRESS": "local",  # otherwise small runs would do without Ray
        **settings,
    }
    environment = environment_of(
        directory,
        **bucket.environment,
        **{_variable(name): str(value) for name, value in given.items() if value is not None},
    )
    command = [sys.executable, "jobs/index.py", bucket.source, "--report", str(report), *flags]
    began, stolen = time.perf_counter(), stolen_s()
    with (report / "stdout").open("w") as stdout:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout)
        try:
            with Watch(process.pid) as watch:
                status = process.wait(TIMEOUT_S)
        finally:
            process.terminate()  # no effect if it has ended; an interrupted job ends its Ray
            process.wait(60)
    seconds = time.perf_counter() - began
    written = report / "summary.json"
    summary = json.loads(written.read_text()) if written.exists() else {}
    if status != 0:
        raise RuntimeError(f"the job ended with status {status}: {summary.get('problem', 'it wrote no report')}")
    run = Run(seconds, summary, watch.peak, watch.cpu_s, stolen_s() - stolen)
    print(f"the job took {seconds:.1f} s over {summary['counts']['listed']:,} objects: {run.stages}", file=sys.stderr)
    return run


def environment_of(directory: Path, **variables: str) -> dict[str, str]:
    """This environment without settings of viewfinder and Ray, with `variables`, for a program that may start Ray."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("VIEWFINDER_", "RAY_"))},
        **variables,
        # By default Ray writes a token into the home directory and sends usage reports.
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(directory),
    }


def _variable(name: str) -> str:
    return name if name.startswith("RAY_") else f"VIEWFINDER_{name.upper()}"
