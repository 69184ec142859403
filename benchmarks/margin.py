"""Speed without start-up: the cost of additional images, from a long and a short run of the same program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from benchmarks.harness import NoFigureError


@dataclass(frozen=True)
class Margin:
    """Images and wall seconds of two runs that differ only in size, or medians of several pairs.

    Both load libraries and a model, and overlap that with their first images in the same way if the shorter run has
    images left when its model is loaded. So the difference contains neither. Timing one run from its first image
    would count images that were decoded during start-up.
    """

    few: int
    few_s: float
    many: int
    many_s: float
    rounds: int = 1

    @classmethod
    def of(cls, seconds: Mapping[int, Sequence[float]]) -> Self:
        """Build from the wall seconds of alternating runs over two numbers of images.

        Start-up varies by seconds between runs, which a single pair would count as speed.
        """
        (few, few_s), (many, many_s) = sorted(seconds.items())
        return cls(few, median(few_s), many, median(many_s), rounds=len(many_s))

    @property
    def per_second(self) -> float:
        """Images per second; raise `NoFigureError` if the longer run was not slower."""
        if self.many_s <= self.few_s:
            raise NoFigureError(f"the longer run was not slower: {self.runs}")
        return (self.many - self.few) / (self.many_s - self.few_s)

    @property
    def start_up_s(self) -> float:
        """Seconds of the longer run that its images do not explain."""
        return self.many_s - self.many / self.per_second

    def nearest(self, count: int) -> tuple[int, float]:
        """Images and seconds of the run whose number of images is nearer to `count`."""
        return min((self.few, self.few_s), (self.many, self.many_s), key=lambda run: abs(run[0] - count))

    @property
    def runs(self) -> str:
        """A description of both runs."""
        medians = f", medians of {self.rounds}" if self.rounds > 1 else ""
        return f"{self.many:,} in {self.many_s:.1f} s, {self.few:,} in {self.few_s:.1f} s{medians}"

    def __str__(self) -> str:
        return f"{self.per_second:.1f} images/s without a start-up of {self.start_up_s:.1f} s ({self.runs})"
