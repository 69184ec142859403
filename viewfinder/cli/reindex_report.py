"""Print the result of a re-index, rollback or release on standard output, and a problem on standard error."""

from dataclasses import asdict

from viewfinder.cli import output
from viewfinder.cli.index_report import list_counts, list_reasons, plan_fields
from viewfinder.reindexing.report import ReindexPlan, ReindexResult
from viewfinder.reindexing.rollback import RollbackPause, RollbackResult

_RESULTS = {True: "ok", False: "FAILED", None: "-"}


def show_result(result: ReindexResult, *, as_json: bool) -> None:
    """Print the result of a re-index or of its dry run."""
    if as_json:
        output.print_json(asdict(result))
    elif result.plan is not None:
        _show_plan(result.plan, result.collection)
    elif result.dry_run:
        output.print_text(f"{result.outcome}; nothing was changed.")
    else:
        if result.checks:
            rows = [
                [
                    each.name,
                    _RESULTS[each.passed],
                    "" if each.value is None else f"{each.value:,}",
                    each.bound,
                    each.note,
                ]
                for each in result.checks
            ]
            output.print_table(["check", "result", "value", "bound", "note"], rows)
        output.print_record(_result_fields(result))
    if result.problem:
        output.report_error(result.problem, result.exit_status, as_json=as_json)


def show_rollback(result: RollbackResult, *, as_json: bool) -> None:
    """Print the collection that is live after a rollback, and its age."""
    if as_json:
        output.print_json(asdict(result))
        return
    runs = "1 run has" if result.missed_runs == 1 else f"{result.missed_runs} runs have"
    output.print_text(
        f"{result.collection} (model {result.model}) is live.\n"
        f"It was retired at {result.retired_at or 'an unknown time'}; the last run that wrote to it was "
        f"{result.last_run or 'not recorded'}. Since then {runs} written to {result.rolled_back_from}.\n"
        "To bring it up to date: viewfinder index. Scheduled runs are paused until --release or --model."
    )


def show_release(pause: RollbackPause | None, index: str, *, as_json: bool) -> None:
    """Print the pause that ended."""
    if as_json:
        output.print_json({"index": index, "ended": None if pause is None else asdict(pause)})
    elif pause:
        output.print_text(f"Scheduled runs are resumed. They were paused {pause}.")
    else:
        output.print_text(f"Scheduled runs of index {index!r} were not paused.")


def show_nothing_to_do(index: str, *, as_json: bool) -> None:
    """Print that the live collection already has the wanted model."""
    if as_json:
        output.print_json({"index": index, "outcome": "nothing to do: the model has not changed"})


def _show_plan(plan: ReindexPlan, live: str) -> None:
    output.print_text(f"Would {plan.step}; live is {live}.")
    for source, captions in plan.sources.items():
        output.print_text(f"  from {source}" + (f" with captions {', '.join(captions)}" if captions else ""))
    output.print_record(plan_fields(plan.actions, plan.gone))


def _result_fields(result: ReindexResult) -> list[tuple[str, str]]:
    phases = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in result.phases.items())
    fields = [
        ("run", f"{result.run_id}: {'failed' if result.problem else 'done'}"),
        ("outcome", result.outcome),
        ("live", result.collection),
        ("model", result.model),
        ("objects", list_counts(result.counts)),
        ("skipped", list_reasons({reason: count for reason, count in result.skipped.items() if count})),
        ("captions", f"{result.captions['pruned']:,} removed" if result.captions.get("pruned") else ""),
        ("failures", list_reasons(result.failures)),
        ("warnings", list_reasons(result.warnings)),
        ("time", f"{result.seconds:,.1f} s" + (f": {phases}" if phases else "")),
        ("report", result.report or ""),
    ]
    return [(name, value) for name, value in fields if value]
