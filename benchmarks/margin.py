"""Speed with the start-up left out: what further pictures cost, by a long run and a short one of the same program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from benchmarks.harness import NoFigureError


@dataclass(frozen=True)
class Margin:
    """Pictures and wall seconds of two runs that differ in nothing else, or the medians of several of each.

    Both load their libraries and their model, and both overlap that with their first pictures in the same way, provided
    that the shorter run has pictures left when its model is loaded: the difference holds neither. Timing one run from
    its first picture would, and would count what was decoded meanwhile.
    """

    few: int
    few_s: float
    many: int
    many_s: float
    rounds: int = 1

    @classmethod
    def of(cls, seconds: Mapping[int, Sequence[float]]) -> Self:
        """From the wall seconds of runs over two numbers of pictures, made in turn.

        Seconds of start-up come and go from run to run, and a single pair would count them as speed.
        """
        (few, few_s), (many, many_s) = sorted(seconds.items())
        return cls(few, median(few_s), many, median(many_s), rounds=len(many_s))

    @property
    def per_second(self) -> float:
        """Pictures a second; raises `NoFigureError` where the longer run was not the slower one."""
        if self.many_s <= self.few_s:
            raise NoFigureError(f"the longer run was not the slower one: {self.runs}")
        return (self.many - self.few) / (self.many_s - self.few_s)

    @property
    def start_up_s(self) -> float:
        """What the pictures do not explain of the longer run."""
        return self.many_s - self.many / self.per_second

    def nearest(self, count: int) -> tuple[int, float]:
        """Pictures and seconds of the whole run whose number of pictures is the nearer to `count`."""
        return min((self.few, self.few_s), (self.many, self.many_s), key=lambda run: abs(run[0] - count))

    @property
    def runs(self) -> str:
        """Both runs in words."""
        medians = f", medians of {self.rounds}" if self.rounds > 1 else ""
        return f"{self.many:,} in {self.many_s:.1f} s, {self.few:,} in {self.few_s:.1f} s{medians}"

    def __str__(self) -> str:
        return f"{self.per_second:.1f} pictures/s without a start-up of {self.start_up_s:.1f} s ({self.runs})"
