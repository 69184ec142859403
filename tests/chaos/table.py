"""The table printed after a run with faults: the faults injected and their cost."""

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

OUTPUT = Path(__file__).resolve().parents[1] / "output"
OUTCOMES = ("passed", "skipped", "failed")  # from best to worst
COLUMNS = ("part", "fault", "injected", "retries", "seconds", "without", "outcome")
FAULT = "fault"
SEED = int(os.environ.get("CHAOS_SEED", "0"))
"""Determines which requests and files the faults hit."""


def chance(name: str) -> random.Random:
    """The random generator for the fault of this name, the same for the same `CHAOS_SEED`."""
    return random.Random(f"{SEED}/{name}")


@dataclass
class Cost:
    """The cost of a fault: how often it was injected, requests repeated, seconds with and without it."""

    part: str = ""
    fault: str = ""
    injected: int | None = None
    retries: int | None = None
    seconds: float | None = None
    without: float | None = None


class FaultTable:
    """A pytest plugin with one row for each test marked `chaos`, from its `Cost` fixture if it uses one."""

    def __init__(self) -> None:
        self._by_test: dict[str, dict[str, Any]] = {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self._by_test.values())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: "pytest.CallInfo[None]") -> Any:
        report = yield
        mark = item.get_closest_marker("chaos")
        if mark is not None and (report.when == "call" or report.outcome != "passed"):
            part, fault = (*mark.args, "")[:2]
            case = f" [{item.callspec.id}]" if hasattr(item, "callspec") else ""
            cost = asdict(item.stash.get(COST, Cost(fault=f"{fault}{case}")))
            row = {"part": part, "fault": fault, "seconds": call.duration, "outcome": report.outcome}
            row |= {name: value for name, value in cost.items() if value not in (None, "")}
            report.user_properties.append((FAULT, row))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Called for the tests of other processes too (pytest-xdist).
        for name, row in report.user_properties:
            if name == FAULT:
                # A test that passed may still fail in teardown.
                known = self._by_test.setdefault(report.nodeid, row)
                known["outcome"] = max(known["outcome"], row["outcome"], key=OUTCOMES.index)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.rows:
            return
        lines = [COLUMNS, *([_cell(row.get(name)) for name in COLUMNS] for row in sorted(self.rows, key=_place))]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        terminalreporter.section(f"faults injected (CHAOS_SEED={SEED})")
        for line in lines:
            terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        OUTPUT.mkdir(exist_ok=True)
        table = [COLUMNS, ["---"] * len(COLUMNS), *lines[1:]]
        (OUTPUT / "faults.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in table), encoding="utf-8")
        (OUTPUT / "faults.json").write_text(json.dumps({"seed": SEED, "rows": self.rows}, indent=1), encoding="utf-8")


COST = pytest.StashKey[Cost]()


def _place(row: dict[str, Any]) -> tuple[str, str]:
    return row["part"], row["fault"]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)
