"""A program that is killed at any moment loses nothing that was acknowledged, and never leaves a torn registry."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.edge.writing import NAMES, Expected, create, opened
from tests.processes import descendants

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def kill_at_random(directory: Path, rng: random.Random, seed: int) -> list[str]:
    """Run the program for up to three seconds, kill it and perhaps its processes too; return what it printed."""
    command = [sys.executable, "-m", "tests.edge.writing", str(directory), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # it has opened the store
        assert first, "the program did not start"
        time.sleep(rng.random() * 3)
        own = list(descendants(process.pid))
        for pid in rng.sample(own, len(own)) if rng.random() < 0.5 else []:
            kill(pid)
        kill(process.pid)
        return [first, *process.stdout.readlines()]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended


def kill_often(directory: Path, seed: int, times: int) -> int:
    """Kill programs on one directory one after the other; return how many changes were acknowledged.

    On a busy machine it takes more than `times` kills until graphs were built.
    """
    rng = random.Random(seed)
    expected, ended, graphs = Expected(), 0, 0
    engine = opened(directory, quiet_s=60)
    for name in NAMES:
        create(engine, name)
    engine.close()
    for number in itertools.count():
        if number >= times and (graphs or number >= 5 * times):
            break
        ended += expected.read(kill_at_random(directory, rng, seed + number))
        engine = opened(directory, quiet_s=60)
        try:
            expected.check(engine)
            graphs += any(each.graph_points for each in engine.registry.collections.values())
        finally:
            engine.close()
    assert graphs
    return ended


@pytest.mark.timeout(600)
def test_nothing_is_lost_by_10_kills(tmp_path: Path) -> None:
    assert kill_often(tmp_path, 1, 10) > 20


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 20000, 1000))
def test_nothing_is_lost_by_190_more_kills(tmp_path: Path, seed: int) -> None:
    assert kill_often(tmp_path, seed, 10) > 20
