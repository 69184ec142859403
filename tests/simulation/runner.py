"""Runs many histories, in one process per core."""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.simulation.history import Finding, run_seed
from tests.simulation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
# The order of sets follows it, and so would the order of requests.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}


# Seeds that are tried for a mutation whose own seed no longer finds it.
BUDGET = 60


def find_in_processes(first: int, last: int, *, processes: int | None = None) -> list[Finding]:
    """Return the findings of the seeds from `first` to `last`."""
    count = processes or min(os.cpu_count() or 1, 8)
    running = [_start(str(first + place), str(last), str(count)) for place in range(count)]
    return [found for process in running for found in _answer(process)]


def find_mutations() -> dict[str, tuple[Finding | None, Finding | None]]:
    """Return by name of a mutation what finds it, and what the same history finds without it."""
    return dict(_answer(_start("mutations")))


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.simulation.runner", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT, cwd=ROOT)


def _answer(process: subprocess.Popen[bytes]) -> Any:
    answer = process.communicate()[0]
    if process.returncode:
        raise RuntimeError("a process of the simulation has failed; its error is above")
    return pickle.loads(answer)


def _find_mutation(mutation: Mutation) -> tuple[Finding | None, Finding | None]:
    with mutation.applied():
        tried = (run_seed(seed, mutation.features) for seed in (mutation.seed, *range(BUDGET)))
        found = next((each for each in tried if each is not None), None)
    return found, found and run_seed(found.seed, mutation.features)


def _main(arguments: list[str]) -> object:
    os.nice(10)  # the tests beside it have time limits
    gc.freeze()  # what is imported stays; most of the rest is freed by its count of references
    gc.set_threshold(100_000, 50, 100)
    if arguments == ["mutations"]:
        return {each.name: _find_mutation(each) for each in MUTATIONS}
    first, last, step = map(int, arguments)
    return [found for seed in range(first, last + 1, step) if (found := run_seed(seed)) is not None]


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(_main(sys.argv[1:])))
