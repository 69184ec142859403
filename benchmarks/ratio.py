"""Time two ways to do the same work alternately in one run, so that a busy machine slows both."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """The seconds of each round."""

    first_s: tuple[float, ...]
    second_s: tuple[float, ...]

    @property
    def value(self) -> float:
        """Median of the first ÷ median of the second."""
        return median(self.first_s) / median(self.second_s)

    @property
    def first_ms(self) -> float:
        return median(self.first_s) * 1000

    @property
    def second_ms(self) -> float:
        return median(self.second_s) * 1000

    def __str__(self) -> str:
        pairs = sorted(first / second for first, second in zip(self.first_s, self.second_s, strict=True))
        quarter = len(pairs) // 4
        middle = f"{pairs[quarter]:.2f} to {pairs[-1 - quarter]:.2f}"
        return f"medians of {len(pairs)} pairs in turn, half of them from {middle}"


def in_turn(
    name: str,
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time `first` and `second` alternately, `rounds` times each, after `warm_ups` that do not count."""
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    first_s: list[float] = []
    second_s: list[float] = []
    for number in range(1 - warm_ups, rounds + 1):
        spent_s = _timed(first, clock), _timed(second, clock)
        if number < 1:
            continue
        first_s.append(spent_s[0])
        second_s.append(spent_s[1])
        if number == rounds or number % max(1, rounds // 5) == 0:
            milliseconds = " and ".join(f"{seconds * 1000:,.1f} ms" for seconds in spent_s)
            print(f"{name}: {number}/{rounds}: {milliseconds}", file=sys.stderr, flush=True)
    return Ratio(tuple(first_s), tuple(second_s))


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began
