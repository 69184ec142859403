"""One history: draw it, act it out, check it, and shrink it when it fails."""

import logging
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from tests.simulation.actions import FEATURES, Action, Draw, Phase, function_of
from tests.simulation.conduct import Violation
from tests.simulation.final_sync import sync_twice
from tests.simulation.oracle import Oracle
from tests.simulation.scheduler import Task
from tests.simulation.world import World

# Features that are not drawn, because viewfinder still has the fault: the feature and the fault.
KNOWN: dict[str, str] = {}


@dataclass(frozen=True)
class Finding:
    """A history that breaks an invariant."""

    seed: int
    phases: Sequence[Phase]
    violation: str

    def __str__(self) -> str:
        lines = [f"Seed {self.seed} breaks an invariant: {self.violation}"]
        for phase in self.phases:
            lines.append(f"  {phase.hours} h later:")
            lines += [f"    {action}" for action in phase.actions]
        return "\n".join([*lines, f"Replay with: python -m tests.simulation {self.seed}"])


def run_seed(seed: int, features: frozenset[str] | None = None) -> Finding | None:
    """Act out the history of a seed; return what it found. With `features` it has only those, and has them often."""
    draw = Draw(seed, FEATURES - KNOWN.keys()) if features is None else Draw(seed, features, often=0.7)
    phases = draw.history()
    violation = act_out(seed, phases)
    return None if violation is None else Finding(seed, phases, violation)


def act_out(seed: int, phases: Sequence[Phase]) -> str | None:
    """Act out phases and check the invariants after each and at the end; return the violation."""
    random.seed(seed)
    np.random.seed(seed)
    with _quiet():
        world = World(on_server=seed % 2 == 0)
        try:
            oracle = Oracle(world)
            for number, phase in enumerate(phases):
                world.scheduler.time += timedelta(hours=phase.hours)
                tasks = [_task(action, number, place) for place, action in enumerate(phase.actions)]
                oracle.before()
                work = [
                    (task, function_of(action, world, task)) for action, task in zip(phase.actions, tasks, strict=True)
                ]
                world.scheduler.run(work, phase.seed)
                oracle.after(list(zip(phase.actions, tasks, strict=True)))
            sync_twice(world, oracle)
        except Violation as violation:
            return str(violation)
        finally:
            world.close()
    return None


def shrink(finding: Finding) -> Finding:
    """Return the finding with as few phases and actions as possible that still break an invariant."""
    phases = list(finding.phases)
    violation = finding.violation
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(phases):
            found = act_out(finding.seed, smaller)
            if found is not None and _kind(found) == _kind(violation):
                phases, violation, changed = smaller, found, True
                break
    return Finding(finding.seed, phases, violation)


def _kind(violation: str) -> str:
    return re.sub(r"s3://\S+|\d+|'[^']*'", "", violation)


def _smaller(phases: list[Phase]) -> Iterator[list[Phase]]:
    for place in reversed(range(len(phases))):
        yield phases[:place] + phases[place + 1 :]
    for place, phase in enumerate(phases):
        for number, action in enumerate(phase.actions):
            others = phase.actions[:number] + phase.actions[number + 1 :]
            if others:
                yield [*phases[:place], replace(phase, actions=others), *phases[place + 1 :]]
            for simpler in _simpler(action):
                actions = (*phase.actions[:number], simpler, *phase.actions[number + 1 :])
                yield [*phases[:place], replace(phase, actions=actions), *phases[place + 1 :]]


def _simpler(action: Action) -> Iterator[Action]:
    if action.faults:
        yield replace(action, faults={})
    if action.skew_s:
        yield replace(action, skew_s=0.0)
    if action.kill_at:
        yield replace(action, kill_at=None)
    for name in ("prune", "captions", "limit", "bad_node", "retry_failed", "prune_captions", "allow_loss"):
        if action.options.get(name):
            yield replace(action, options={**action.options, name: None})


def _task(action: Action, phase: int, place: int) -> Task:
    return Task(f"{phase:02}-{place}", place, action.delay, action.skew_s, action.kill_at, dict(action.faults))


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
