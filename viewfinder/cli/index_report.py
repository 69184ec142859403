"""The report of an index run as tables on standard output."""

import sys
from collections.abc import Mapping

from rich.table import Table

from viewfinder.cli.entry import stdout
from viewfinder.indexing.prune import PrunePlan
from viewfinder.indexing.report import Plan, Summary

# Reasons in the table; failures.jsonl has them all.
_MAX_REASONS = 8
_ACTIONS = {
    "index": "would be indexed",
    "caption": "would get a new caption",
    "sources": "unchanged, found in a further source",
    "unchanged": "unchanged",
    "taken_down": "taken down, would stay out",
    "failed": "known failures of unchanged content",
}


def print_summary(summary: Summary) -> int:
    """Print what a run did; returns the exit status."""
    counts = summary.counts
    table = Table(title=f"Run {summary.run_id}: {summary.state}", show_header=False, title_justify="left")
    table.add_row("collection", summary.collection)
    table.add_row("model", summary.model)
    table.add_row("objects", ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if summary.taken_down:
        table.add_row("taken down", f"{summary.taken_down:,} of the unchanged")
    if summary.failures:
        table.add_row("failures", list_reasons(summary.failures))
    rate = counts["indexed"] / summary.seconds if summary.seconds else 0.0
    table.add_row("time", f"{summary.seconds:,.1f} s, {rate:,.1f} indexed a second with start-up")
    if summary.bottleneck:
        table.add_row("bottleneck", f"{summary.bottleneck}; to speed it up, {summary.advice}")
    table.add_row("report", summary.report)
    stdout().print(table)
    if summary.problem:
        print(f"error: {summary.problem}", file=sys.stderr)
    return 1 if summary.problem else 0


def print_plan(plan: Plan) -> None:
    """Print what a run would do."""
    stdout().print(plan_table(plan.actions, plan.prune))


def plan_table(actions: Mapping[str, int], prune: PrunePlan | None) -> Table:
    """The listed objects by the action they need, and the points that would be pruned."""
    table = Table(title="Dry run: nothing was changed", show_header=False, title_justify="left")
    table.add_row("listed", f"{sum(actions.values()):,}")
    for action, count in sorted(actions.items()):
        table.add_row(_ACTIONS[action], f"{count:,}")
    if prune is not None:
        table.add_row("would be pruned", f"{prune.deleted:,} of {prune.points:,} points")
    return table


def list_reasons(failures: Mapping[str, int]) -> str:
    """The most frequent reasons of failures with their counts."""
    shown = [f"{count:,} {reason}" for reason, count in list(failures.items())[:_MAX_REASONS]]
    return ", ".join(shown) + (", …" if len(failures) > _MAX_REASONS else "")
