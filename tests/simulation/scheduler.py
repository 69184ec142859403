"""A deterministic scheduler: of several tasks one runs at a time, and hands over only at an I/O step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

from viewfinder import clock

STEP_S = 0.05
STALL_STEPS = (10, 80)  # how long a stalled program waits before a change: others do a whole batch meanwhile
MAX_STEPS = 4000  # a run that needs more never ends


class Killed(BaseException):
    """The process of a run has been killed: nothing after this step happens."""


class EndlessError(BaseException):
    """A run did not end within `MAX_STEPS`."""


@dataclass
class Task:
    """One action. It starts `delay` steps after its phase, its clock is `skew_s` off, and step `kill_at` kills it."""

    name: str
    place: int = 0  # among the actions of its phase
    delay: int = 0
    skew_s: float = 0.0
    kill_at: int | None = None
    faults: dict[int, str] = field(default_factory=dict)
    steps: int = 0
    dead: bool = False
    began: int = 0
    result: Any = None
    error: BaseException | None = None
    seen: dict[str, Any] = field(default_factory=dict)  # what the world notes about it


class Scheduler:
    """Runs the tasks of one phase after the other. `steps` counts all steps, `time` is the true time of day."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.steps = 0
        self._random = Random(0)
        self._switch = 0.3
        self._stalls: Random | None = None
        self._tasks: dict[greenlet, Task] = {}
        self._alive: list[greenlet] = []
        self._asleep: dict[greenlet, datetime] = {}  # until when

    @property
    def task(self) -> Task | None:
        """The task that is running; None in the oracle and between phases."""
        return self._tasks.get(getcurrent())

    def run(self, work: list[tuple[Task, Callable[[], Any]]], seed: int) -> None:
        """Run all tasks to their end. In half of the phases, programs stall now and then before they change something.

        Programs that take turns at random seldom meet in the one step between another's read and its change.
        """
        self._random = Random(seed)
        self._stalls = Random(seed) if seed % 2 and len(work) > 1 else None
        self._switch = self._random.choice([0.05, 0.3, 0.9])
        start = self.steps
        waiting = [(start + task.delay, greenlet(self._main), task, function) for task, function in work]
        while self._alive or waiting:
            for each in [each for each in waiting if each[0] <= self.steps]:
                waiting.remove(each)
                _, thread, task, function = each
                self._tasks[thread] = task
                task.began = self.steps
                thread.switch(task, function)
                self._alive.append(thread)
            if self._alive:
                self._random.choice(self._awake()).switch()
                self._alive = [each for each in self._alive if not each.dead]
            elif waiting:
                self.steps += 1
        self._tasks = {}

    def _awake(self) -> list[greenlet]:
        """The tasks that can go on. If all sleep, time passes until the first one wakes."""
        first = min(self._asleep.get(each, self.time) for each in self._alive)
        self.time = max(self.time, first)
        return [each for each in self._alive if self._asleep.get(each, self.time) <= self.time]

    def step(self, *, changes: bool = False) -> None:
        """Count one I/O step of the running task, and perhaps let another task run first.

        `changes`: it is a request that changes what is stored.
        """
        task = self.task
        if task is None:
            return
        if not task.dead:
            self.steps += 1
            task.steps += 1
            self.time += timedelta(seconds=STEP_S)
            if changes and self._stalls and self._stalls.random() < 0.1:
                self._wait(self._stalls.randint(*STALL_STEPS) * STEP_S)
            elif self._random.random() < self._switch:
                getcurrent().parent.switch()
            task.dead = task.steps == task.kill_at
        if task.dead:
            raise Killed
        if task.steps > MAX_STEPS:
            raise EndlessError

    def sleep(self, seconds: float) -> None:
        """Let time pass, in which other tasks go on."""
        if self.task is None:
            self.time += timedelta(seconds=seconds)
            return
        self._wait(seconds)
        self.step()

    def _wait(self, seconds: float) -> None:
        sleeper = getcurrent()
        self._asleep[sleeper] = self.time + timedelta(seconds=seconds)
        try:
            sleeper.parent.switch()
        finally:
            del self._asleep[sleeper]

    @contextmanager
    def repeating(self, seconds: float, function: Callable[[], bool]) -> Iterator[None]:
        """Call `function` at intervals, as `viewfinder.clock.repeating` does, in a greenlet instead of a thread."""
        task = self.task
        if task is None:
            yield
            return

        def run() -> None:
            with self._clock_of(task):
                try:
                    self.sleep(seconds)
                    while function():
                        self.sleep(seconds)
                except (Killed, EndlessError):  # the task itself meets them too
                    pass

        thread = greenlet(run)
        self._tasks[thread] = task
        thread.switch()
        thread.parent = getcurrent().parent
        self._alive.append(thread)
        try:
            yield
        finally:
            if not thread.dead:
                thread.parent = getcurrent()
                thread.throw()

    def monotonic(self) -> float:
        return self.time.timestamp()

    def _main(self, task: Task, function: Callable[[], Any]) -> None:
        getcurrent().parent.switch()
        with self._clock_of(task):
            try:
                task.result = function()
            except BaseException as error:
                task.error = error

    def _clock_of(self, task: Task) -> AbstractContextManager[None]:
        return clock.using(lambda: self.time + timedelta(seconds=task.skew_s), self.sleep, self.repeating)
