"""Rendering of re-index results, rollbacks and pauses on standard output; problems go to standard error."""

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from viewfinder.cli.entry import stdout
from viewfinder.cli.index_report import list_reasons, plan_table
from viewfinder.reindexing.report import ReindexPlan, ReindexResult
from viewfinder.reindexing.rollback import RollbackPause, RollbackResult
from viewfinder.reindexing.verify import Check

_RESULTS = {True: "ok", False: "FAILED", None: "-"}


def show(result: ReindexResult) -> None:
    """Print the result of a re-index or of its dry run."""
    console = stdout()
    if result.plan is not None:
        _show_plan(result.plan, result.collection)
    elif result.dry_run:
        console.print(f"{result.outcome}; nothing was changed.")
    else:
        if result.checks:
            console.print(_checks_table(result.checks))
        console.print(_summary_table(result))
    if result.problem:
        print(f"error: {result.problem}", file=sys.stderr)


def show_rollback(result: RollbackResult) -> None:
    """Print which collection is live after a rollback, and how old it is."""
    runs = "1 run has" if result.missed_runs == 1 else f"{result.missed_runs} runs have"
    console = stdout()
    console.print(f"{result.collection} (model {result.model}) is live.")
    console.print(
        f"It was retired at {result.retired_at or 'an unknown time'}; the last run that wrote to it was "
        f"{result.last_run or 'not recorded'}. Since then {runs} written to {result.rolled_back_from}."
    )
    console.print("To bring it up to date: viewfinder index. Scheduled runs are paused until --release or --model.")


def show_release(pause: RollbackPause | None, index: str) -> None:
    """Print which pause was ended."""
    if pause:
        stdout().print(f"Scheduled runs continue. They were paused {pause}.")
    else:
        stdout().print(f"Scheduled runs of index {index!r} were not paused.")


def _show_plan(plan: ReindexPlan, live: str) -> None:
    console = stdout()
    console.print(f"Would {plan.step}; live is {live}.")
    for sources, captions in plan.sources:
        console.print(f"  from {', '.join(sources)}{f' with captions {captions}' if captions else ''}")
    console.print(plan_table(plan.actions, plan.gone))


def _checks_table(checks: Sequence[Check]) -> Table:
    table = Table("check", "result", "value", "bound", "", title="Verification", title_justify="left", box=SIMPLE_HEAD)
    for each in checks:
        value = "" if each.value is None else f"{each.value:,}"
        table.add_row(each.name, _RESULTS[each.passed], value, each.bound, each.note)
    return table


def _summary_table(result: ReindexResult) -> Table:
    state = "failed" if result.problem else "done"
    table = Table(title=f"Run {result.run_id}: {state}", show_header=False, title_justify="left")
    table.add_row("outcome", result.outcome)
    table.add_row("live", result.collection)
    table.add_row("model", result.model)
    if result.counts:
        table.add_row("objects", ", ".join(f"{count:,} {name}" for name, count in result.counts.items()))
    if result.failures:
        table.add_row("failures", list_reasons(result.failures))
    phases = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in result.phases.items())
    table.add_row("time", f"{result.seconds:,.1f} s" + (f": {phases}" if phases else ""))
    table.add_row("report", result.report)
    return table
