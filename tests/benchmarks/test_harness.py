"""Taking ratios, comparing with bounds and writing results; nothing here is really timed."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

import benchmarks
from benchmarks.__main__ import main
from benchmarks.catalog import BENCHMARKS
from benchmarks.harness import (
    NOT_REACHED,
    NOT_SELECTED,
    QUICK,
    Benchmark,
    Measurement,
    Result,
    WrongAnswerError,
    print_table,
    run,
    write,
)
from benchmarks.ratio import Ratio, in_turn

# Other programs read these names.
NAMES = [
    "pipeline_efficiency",
    "memory_growth",
    "text_encode",
    "image_encode_cpu",
    "text_vs_open_clip",
    "replica_start",
    "jpeg_decode_12mp",
    "first_vector",
    "embedded_insert",
    "embedded_query_ms",
    "embedded_swap_wait_ms",
    "rerun_start",
    "rerun",
    "vs_plain_loop",
    "batching",
    "service_overhead_ms",
    "hostile_client",
    "gpu_pipeline",
]
# They follow the others.
FURTHER = [
    "gpu_images_per_s",
    "colour_profile",
    "pipeline_efficiency_gpu",
    "pipeline_efficiency_camera",
    "vs_transformers_loop",
    "text_vs_transformers",
    "images_vs_transformers",
    "service_vs_plain_app",
    "growth_time",
    "growth_cores",
]


class Clock:
    """A clock that advances only by work."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.done: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def work(self, name: str, *durations_s: float) -> Callable[[], None]:
        rest = iter(durations_s)

        def run_once() -> None:
            self.done.append(name)
            self.now_s += next(rest)

        return run_once


def fake(value: float | None, detail: str = "as given") -> Sequence[Benchmark]:
    """The catalogue with functions that return a fixed value."""
    return [Benchmark(each.name, each.bound, each.better, lambda _: Measurement(value, detail)) for each in BENCHMARKS]


def benchmark(better: Literal["higher", "lower"]) -> Benchmark:
    return Benchmark("speed", 2.0, better, lambda _: Measurement(None, ""))


def test_two_sides_with_different_results_give_no_value_and_a_failed_run() -> None:
    def disagree(quick: bool) -> Measurement:
        raise WrongAnswerError("the vectors differ by 1e-01")

    (result,) = run([Benchmark("speed", 2, "higher", disagree)], ["speed"], quick=False)
    assert (result.value, result.detail, result.broke) == (None, "wrong: the vectors differ by 1e-01", True)


def test_both_sides_are_timed_alternately() -> None:
    clock = Clock()
    in_turn("x", clock.work("A", 1, 1, 1), clock.work("B", 1, 1, 1), rounds=3, warm_ups=0, clock=clock)
    assert clock.done == ["A", "B", "A", "B", "A", "B"]


def test_the_ratio_is_that_of_the_medians_without_warm_ups() -> None:
    clock = Clock()
    slow, fast = clock.work("slow", 900, 6, 8, 700), clock.work("fast", 0.5, 2, 500, 1)
    ratio = in_turn("x", slow, fast, rounds=3, warm_ups=1, clock=clock)
    assert ratio == Ratio((6, 8, 700), (2, 500, 1))
    assert ratio.value == 4
    assert (ratio.first_ms, ratio.second_ms) == (8000, 2000)


def test_the_spread_excludes_the_outer_quarters() -> None:
    assert "4 pairs in turn, half of them from 2.00 to 3.00" in str(Ratio((1, 2, 3, 400), (1, 1, 1, 1)))


def test_zero_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        in_turn("x", lambda: None, lambda: None, rounds=0)


def test_the_catalogue_holds_every_name_once() -> None:
    assert [each.name for each in BENCHMARKS] == [*NAMES, *FURTHER]
    assert all(each.bound is not None for each in BENCHMARKS if each.name in NAMES)


@pytest.mark.parametrize("name", [*NAMES, *FURTHER])
def test_the_readme_explains_every_name(name: str) -> None:
    page = (Path(benchmarks.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert page.count(f"| `{name}` |") == 1


def test_the_results_hold_every_name_once(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    write(run(fake(3.14159265), [*NAMES, *FURTHER], quick=False), path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == [*NAMES, *FURTHER]
    assert [row["bound"] for row in rows] == [each.bound for each in BENCHMARKS]
    for row in rows:
        assert list(row) == ["name", "value", "bound", "better", "detail"]
        assert row["better"] in ("higher", "lower")
        assert row["value"] == 3.1416
        assert row["detail"].startswith("as given; ")
        assert "load average" in row["detail"]


def test_benchmarks_not_selected_are_null_in_the_results() -> None:
    ran: list[str] = []

    def recording(name: str) -> Benchmark:
        def measure(quick: bool) -> Measurement:
            ran.append(name)
            return Measurement(1.0, "")

        return Benchmark(name, 1, "higher", measure)

    results = run([recording(name) for name in NAMES], ["rerun"], quick=False)
    assert ran == ["rerun"]
    assert [result.benchmark.name for result in results] == NAMES
    skipped = [result.as_json() for result in results if result.benchmark.name != "rerun"]
    assert [(row["value"], row["detail"]) for row in skipped] == [(None, NOT_SELECTED)] * (len(NAMES) - 1)


def test_a_value_that_cannot_be_measured_is_null_with_its_reason() -> None:
    result = run(fake(None, "needs a GPU"), NAMES, quick=False)[0]
    assert (result.value, result.detail, result.met, result.broke) == (None, "needs a GPU", None, False)


def test_results_are_kept_when_the_run_is_interrupted() -> None:
    def ended(quick: bool) -> Measurement:
        raise KeyboardInterrupt

    kept: list[list[Result]] = []
    benchmarks = [*fake(2.0)[:1], Benchmark("long", 1, "higher", ended)]
    with pytest.raises(KeyboardInterrupt):
        run(benchmarks, [each.name for each in benchmarks], quick=False, after_each=lambda all_: kept.append([*all_]))
    ((first, second),) = kept
    assert (first.value, second.value, second.detail) == (2.0, None, NOT_REACHED)


def test_an_error_is_reported_and_the_other_benchmarks_run(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(quick: bool) -> Measurement:
        raise ZeroDivisionError("no rounds")

    results = run([Benchmark("broken", 1, "higher", broken), *fake(2.0)], ["broken", *NAMES], quick=False)
    assert results[0].as_json()["value"] is None
    assert results[0].detail == "broke: ZeroDivisionError: no rounds"
    assert [result.broke for result in results] == [True] + [False] * len(BENCHMARKS)
    assert "Traceback" in capsys.readouterr().err


def test_a_quick_run_is_marked_and_meets_no_bound() -> None:
    asked: list[bool] = []

    def measure(quick: bool) -> Measurement:
        asked.append(quick)
        return Measurement(100.0, "as told")

    (result,) = run([Benchmark("speed", 1, "higher", measure)], ["speed"], quick=True)
    assert asked == [True]
    assert result.detail.startswith(QUICK + "as told")
    assert result.met is None


@pytest.mark.parametrize(
    ("better", "value", "met"),
    [
        ("higher", 2.0, True),
        ("higher", 1.99, False),
        ("lower", 2.0, True),
        ("lower", 2.01, False),
        ("higher", None, None),
    ],
)
def test_a_value_equal_to_the_bound_meets_it(
    better: Literal["higher", "lower"], value: float | None, met: bool | None
) -> None:
    assert Result(benchmark(better), value, "").met is met


def test_without_a_bound_nothing_is_met_or_missed(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(Benchmark("speed", None, "higher", lambda _: Measurement(None, "")), 1.5, "")
    assert result.met is None
    assert result.as_json()["bound"] is None
    print_table([result])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "speed" in line]
    assert line.split() == ["speed", "1.50", "–", "–"]


def test_the_table_shows_value_bound_and_whether_it_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([Result(benchmark("higher"), 1.5, "[red]brackets[/red]"), Result(benchmark("lower"), 1.5, "")])
    first, second = [line for line in capsys.readouterr().out.splitlines() if "speed" in line]
    assert first.split()[:6] == ["speed", "1.50", "≥", "2", "NO", "[red]brackets[/red]"]
    assert second.split() == ["speed", "1.50", "≤", "2", "yes"]


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["text_encoding"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "no such benchmark: text_encoding;" in message
    assert "text_encode" in message


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, benchmarks.__main__; "
        "print([name for name in ('torch', 'ray', 'open_clip', 'fastapi', 'qdrant_client') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
