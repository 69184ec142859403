"""Run benchmarks one after the other, and report all of the catalogue, measured or not."""

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from viewfinder.models.cpu import cpu_cores

QUICK = "QUICK smoke run, no measurement: "
NOT_SELECTED = "not selected in this run"
NOT_REACHED = "the run ended before this benchmark"

_MINIMUM_WIDTH = 120


class NoFigureError(Exception):
    """Raised if there is no meaningful figure, with the reason; not an error of the benchmark."""


class WrongAnswerError(Exception):
    """Raised if the two sides give different results, so that their times cannot be compared."""


@dataclass(frozen=True)
class Measurement:
    """A value, or None with the reason in `detail`."""

    value: float | None
    detail: str


Measure = Callable[[bool], Measurement]  # called with True for a quick run


@dataclass(frozen=True)
class Benchmark:
    """A name, the bound of its value (or None), and the function that measures it."""

    name: str
    bound: float | None
    better: Literal["higher", "lower"]
    measure: Measure


@dataclass(frozen=True)
class Result:
    """The result of one benchmark; `broke` if measuring raised an error or its two sides differ."""

    benchmark: Benchmark
    value: float | None
    detail: str
    broke: bool = False

    @property
    def met(self) -> bool | None:
        """True if the bound is met; None without a bound or a value, and in a quick run."""
        bound = self.benchmark.bound
        if self.value is None or bound is None or self.detail.startswith(QUICK):
            return None
        return self.value >= bound if self.benchmark.better == "higher" else self.value <= bound

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.benchmark.name,
            "value": self.value,
            "bound": self.benchmark.bound,
            "better": self.benchmark.better,
            "detail": self.detail,
        }


def run(
    benchmarks: Sequence[Benchmark],
    chosen: Collection[str],
    *,
    quick: bool,
    after_each: Callable[[Sequence[Result]], None] = lambda results: None,
) -> list[Result]:
    """One result for each benchmark, in order; those not chosen or not reached have no value.

    A run takes an hour, so `after_each` may write intermediate results.
    """
    results = [
        Result(benchmark, None, NOT_REACHED if benchmark.name in chosen else NOT_SELECTED) for benchmark in benchmarks
    ]
    for number, benchmark in enumerate(benchmarks):
        if benchmark.name in chosen:
            results[number] = _measured(benchmark, quick=quick)
            after_each(results)
    return results


def write(results: Sequence[Result], path: Path) -> None:
    """Write the results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([result.as_json() for result in results], indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def print_table(results: Sequence[Result]) -> None:
    """Print the results as a table."""
    table = Table("name", "value", "bound", "met?", "detail", box=SIMPLE_HEAD)
    signs = {"higher": "≥", "lower": "≤"}
    for result in results:
        value = "–" if result.value is None else f"{result.value:.2f}"
        met = {True: "yes", False: "NO", None: "–"}[result.met]
        limit = result.benchmark.bound
        bound = "–" if limit is None else f"{signs[result.benchmark.better]} {limit:g}"
        # `Text`, because rich would read brackets in a detail as markup.
        table.add_row(result.benchmark.name, value, bound, met, Text(result.detail))
    columns = shutil.get_terminal_size(fallback=(_MINIMUM_WIDTH, 24)).columns
    Console(width=max(columns, _MINIMUM_WIDTH)).print(table)


def _measured(benchmark: Benchmark, *, quick: bool) -> Result:
    began, load_before = time.perf_counter(), os.getloadavg()[0]
    try:
        measurement = benchmark.measure(quick)
    except NoFigureError as error:
        return Result(benchmark, None, str(error))
    except WrongAnswerError as error:
        return Result(benchmark, None, f"wrong: {error}", broke=True)
    except Exception as error:
        # Continue with the others: the results must have every name.
        traceback.print_exc()
        return Result(benchmark, None, f"broke: {type(error).__name__}: {error}", broke=True)
    if measurement.value is None:
        return Result(benchmark, None, measurement.detail)
    load_after = os.getloadavg()[0]
    machine = f"{cpu_cores()} cores, load average {load_before:.1f} before and {load_after:.1f} after"
    detail = f"{QUICK if quick else ''}{measurement.detail}; {machine}"
    print(f"{benchmark.name} took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return Result(benchmark, round(measurement.value, 4), detail)
