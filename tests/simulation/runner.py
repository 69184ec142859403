"""Runs many histories, in one process per core."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.simulation.history import Finding, run_seed

ROOT = Path(__file__).parents[2]
# The order of sets follows it, and so would the order of requests.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}


def find(seeds: Iterable[int], check: Callable[[int], Finding | None] = run_seed) -> list[Finding]:
    """Return the findings of these seeds, in this process."""
    return [found for seed in seeds if (found := check(seed)) is not None]


def find_in_processes(first: int, last: int, *, processes: int | None = None) -> list[Finding]:
    """Return the findings of the seeds from `first` to `last`."""
    count = processes or min(os.cpu_count() or 1, 8)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.runner", str(first + place), str(last), str(count)],
            stdout=subprocess.PIPE,
            env=os.environ | ENVIRONMENT,
            cwd=ROOT,
        )
        for place in range(count)
    ]
    answers = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process of the simulation has failed; its error is above")
    return [found for answer in answers for found in pickle.loads(answer)]


if __name__ == "__main__":
    first, last, step = map(int, sys.argv[1:])
    sys.stdout.buffer.write(pickle.dumps(find(range(first, last + 1, step))))
