"""Speed with the start-up left out: what further pictures cost, by a long run and a short one of the same program."""

from dataclasses import dataclass

from benchmarks.harness import NoFigureError


@dataclass(frozen=True)
class Margin:
    """Pictures and wall seconds of two runs that differ in nothing else.

    Both load their libraries and their model, and both overlap that with their first pictures in the same way: the
    difference holds neither. Timing one run from its first picture would, and would count what was decoded meanwhile.
    """

    few: int
    few_s: float
    many: int
    many_s: float

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

    @property
    def runs(self) -> str:
        """Both runs in words."""
        return f"{self.many:,} in {self.many_s:.1f} s, {self.few:,} in {self.few_s:.1f} s"

    def __str__(self) -> str:
        return f"{self.per_second:.1f} pictures/s without a start-up of {self.start_up_s:.1f} s ({self.runs})"
