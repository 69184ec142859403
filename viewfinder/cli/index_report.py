"""Print the report of an index run on standard output, and a problem on standard error."""

from collections.abc import Mapping
from dataclasses import asdict

from viewfinder.cli import output
from viewfinder.cli.entry import FAILED
from viewfinder.indexing.prune import PrunePlan
from viewfinder.indexing.report import IndexPlan, Summary
from viewfinder.wording import counted

# Number of reasons shown; failures.jsonl has all of them.
_MAX_REASONS = 8
_ACTIONS = {
    "index": "would be indexed",
    "caption": "would get a new caption",
    "sources": "unchanged, found in another source",
    "unchanged": "unchanged",
    "skipped": "would be skipped",
    "failed": "known failures, unchanged since",
}


def show_summary(summary: Summary, *, as_json: bool) -> None:
    """Print the summary of a run."""
    if as_json:
        output.print_json(asdict(summary))
    else:
        output.print_record(_summary_fields(summary))
    if summary.problem:
        output.report_error(summary.problem, FAILED, as_json=as_json)


def show_plan(plan: IndexPlan, *, as_json: bool) -> None:
    """Print the plan of a dry run."""
    if as_json:
        output.print_json({"dry_run": True, **asdict(plan)})
    else:
        output.print_record([("dry run", "nothing was changed"), *plan_fields(plan.actions, plan.prune)])
    if plan.problems:
        output.report_error(" ".join(plan.problems), FAILED, as_json=as_json)


def plan_fields(actions: Mapping[str, int], prune: PrunePlan | None) -> list[tuple[str, str]]:
    """The listed objects by the action they need, and the points that would be pruned."""
    fields = [("listed", f"{sum(actions.values()):,}")]
    fields += [(_ACTIONS[action], f"{count:,}") for action, count in sorted(actions.items())]
    if prune is not None:
        fields.append(("would be pruned", f"{prune.deleted:,} of {counted(prune.points, 'point')}"))
        if prune.captions:
            fields.append(("captions", f"{prune.captions:,} would be removed"))
    return fields


def list_reasons(failures: Mapping[str, int]) -> str:
    """The most frequent failure reasons with their counts."""
    shown = [f"{count:,} {reason}" for reason, count in list(failures.items())[:_MAX_REASONS]]
    return ", ".join(shown) + (", …" if len(failures) > _MAX_REASONS else "")


def list_counts(counts: Mapping[str, int]) -> str:
    """Counts with their names."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _summary_fields(summary: Summary) -> list[tuple[str, str]]:
    rate = summary.counts["indexed"] / summary.seconds if summary.seconds else 0.0
    fields = [
        ("run", f"{summary.run_id}: {summary.state}"),
        ("collection", summary.collection),
        ("model", summary.model),
        ("objects", list_counts(summary.counts)),
        ("captions", f"{summary.captions['pruned']:,} removed" if summary.captions["pruned"] else ""),
        ("skipped", list_reasons({reason: count for reason, count in summary.skipped.items() if count})),
        ("failures", list_reasons(summary.failures)),
        ("warnings", list_reasons(summary.warnings)),
        ("time", f"{summary.seconds:,.1f} s, {rate:,.1f} indexed per second including start-up"),
        ("bottleneck", f"{summary.bottleneck}; to speed this up: {summary.advice}" if summary.bottleneck else ""),
        ("report", summary.report),
    ]
    return [(name, value) for name, value in fields if value]
