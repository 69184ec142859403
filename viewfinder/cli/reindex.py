"""`viewfinder reindex`: change the model of an index without an outage, or bring it up to date."""

from typing import Annotated

import typer

from viewfinder.cli.entry import DONE, job, job_settings, open_execution
from viewfinder.cli.index import check_local_files, check_local_sources
from viewfinder.cli.options import (
    CaptionsOption,
    ConfigOption,
    DryRunOption,
    EvaluationSetOption,
    IndexNameOption,
    JsonOption,
    MaxFailureRatioOption,
    PruneCaptionsMaxRatioOption,
    PruneCaptionsOption,
    PruneMaxRatioOption,
    RayOption,
    ReportOption,
    RetryFailedOption,
    examples,
    model_name,
    optional,
    parse_source,
    ratio,
    whole,
)
from viewfinder.extras import packages_of
from viewfinder.indexing.options import MAX_FAILURE_RATIO, PRUNE_MAX_RATIO
from viewfinder.reindexing.options import KEEP, MAX_QUALITY_LOSS, ReindexOptions
from viewfinder.settings import Settings

EPILOG = examples(
    "viewfinder reindex --model ViT-L-14::openai",
    "viewfinder reindex --evaluation-set queries.jsonl --dry-run",
    "viewfinder reindex --rollback",
    statuses="Exit status: 0 done or nothing to do, 1 failed or refused, 2 wrong usage or configuration.",
)


# The options that --rollback and --release take.
_WITHOUT_RUN = ("--index", "--config", "--json")

NewModelOption = Annotated[
    str | None,
    optional(
        metavar="NAME",
        parser=model_name,
        help="New model of the index. [default: VIEWFINDER_MODEL if it is set, else the live model]",
    ),
]
OnlySourcesOption = Annotated[
    list[str] | None,
    optional(
        "--source",
        metavar="SRC",
        help="Read this source instead of the recorded ones. Repeatable.",
        parser=parse_source,
    ),
]
KeepOption = Annotated[
    int, typer.Option(parser=whole(0), metavar="N", help="Number of retired collections to keep for a rollback.")
]
AllowLossOption = Annotated[
    int,
    typer.Option(
        parser=whole(0),
        metavar="N",
        help="Change the model even if up to N images leave the index because their objects are archived.",
    ),
]
MaxQualityLossOption = Annotated[
    float,
    typer.Option(
        parser=ratio, metavar="R", help="Refuse a model whose recall or MRR on the evaluation set drops by more."
    ),
]
RebuildOption = Annotated[bool, typer.Option("--rebuild", help="Build a new collection even if the model is the same.")]
WhenModelChangedOption = Annotated[
    bool, typer.Option("--when-model-changed", help="Do nothing if the index already has the model.")
]
RollbackOption = Annotated[
    bool, typer.Option("--rollback", help="Make the previous collection live again and pause scheduled runs.")
]
ReleaseOption = Annotated[bool, typer.Option("--release", help="Resume scheduled runs after a rollback.")]


def reindex_command(
    ctx: typer.Context,
    model: NewModelOption = None,
    index: IndexNameOption = None,
    source: OnlySourcesOption = None,
    captions: CaptionsOption = None,
    evaluation_set: EvaluationSetOption = None,
    keep: KeepOption = KEEP,
    max_failure_ratio: MaxFailureRatioOption = MAX_FAILURE_RATIO,
    prune_max_ratio: PruneMaxRatioOption = PRUNE_MAX_RATIO,
    prune_captions: PruneCaptionsOption = False,
    prune_captions_max_ratio: PruneCaptionsMaxRatioOption = PRUNE_MAX_RATIO,
    retry_failed: RetryFailedOption = False,
    allow_loss: AllowLossOption = 0,
    max_quality_loss: MaxQualityLossOption = MAX_QUALITY_LOSS,
    rebuild: RebuildOption = False,
    when_model_changed: WhenModelChangedOption = False,
    dry_run: DryRunOption = False,
    report: ReportOption = None,
    rollback: RollbackOption = False,
    release: ReleaseOption = False,
    ray: RayOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Update an index, or change its model without an outage.

    If the model changes, a new collection is built beside the live one and verified before it goes live. Searches
    continue meanwhile.
    """
    for chosen, flag in ((rollback, "--rollback"), (release, "--release")):
        if chosen:
            _refuse_others(ctx, flag)
    if rebuild and when_model_changed:
        raise typer.BadParameter("Cannot be combined with --when-model-changed.", param_hint="'--rebuild'")
    options = ReindexOptions(
        model=model,
        index=index,
        sources=tuple(source or ()),
        captions=tuple(captions or ()),
        evaluation_set=evaluation_set,
        keep=keep,
        max_failure_ratio=max_failure_ratio,
        prune_max_ratio=prune_max_ratio,
        prune_captions=prune_captions,
        prune_captions_max_ratio=prune_captions_max_ratio,
        retry_failed=retry_failed,
        allow_loss=allow_loss,
        max_quality_loss=max_quality_loss,
        rebuild=rebuild,
        when_model_changed=when_model_changed,
        dry_run=dry_run,
        report=report,
    )
    settings, on_ray = job_settings(config, index, ray)
    check_local_sources(options.sources)
    check_local_files(*options.captions, evaluation_set)
    with job():
        if rollback:
            _roll_back(settings, as_json=as_json)
        elif release:
            _release(settings, as_json=as_json)
        else:
            raise typer.Exit(_reindex(options, settings, on_ray=on_ray, as_json=as_json))


def _refuse_others(ctx: typer.Context, flag: str) -> None:
    """Refuse options of a run on the command line, which has `flag`."""
    sources = {each.opts[0]: ctx.get_parameter_source(each.name) for each in ctx.command.params if each.name}
    given = {option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if others := given - {flag, *_WITHOUT_RUN}:
        raise typer.BadParameter(f"Cannot be combined with {' and '.join(sorted(others))}.", param_hint=f"'{flag}'")


def _roll_back(settings: Settings, *, as_json: bool) -> None:
    with packages_of("local", "'viewfinder reindex'"):
        from viewfinder.cli.reindex_report import show_rollback
        from viewfinder.cluster.session import store_of
        from viewfinder.reindexing.rollback import roll_back

    with store_of(settings) as store:
        show_rollback(roll_back(settings, store), as_json=as_json)


def _release(settings: Settings, *, as_json: bool) -> None:
    with packages_of("local", "'viewfinder reindex'"):
        from viewfinder.cli.reindex_report import show_release
        from viewfinder.cluster.session import store_of
        from viewfinder.reindexing.rollback import release

    with store_of(settings) as store:
        show_release(release(settings, store), settings.index, as_json=as_json)


def _reindex(options: ReindexOptions, settings: Settings, *, on_ray: bool, as_json: bool) -> int:
    """Run the re-index, print its result and return the exit status."""
    with packages_of("local", "'viewfinder reindex'"):
        from viewfinder.cli.progress import ConsoleProgress
        from viewfinder.cli.reindex_report import show_nothing_to_do, show_result
        from viewfinder.cluster.session import store_of
        from viewfinder.indexing import preflight
        from viewfinder.indexing.report import Report
        from viewfinder.indexing.run import Indexer
        from viewfinder.reindexing.workflow import has_wanted_model, reindex
        from viewfinder.sources.access import ObjectAccess

    preflight.check_target(options.model or settings.model, settings)
    if options.when_model_changed:
        # Scheduled runs are frequent, and this check needs neither Ray nor a model.
        with store_of(settings) as store:
            if has_wanted_model(options, settings, store):
                show_nothing_to_do(settings.index, as_json=as_json)
                return DONE
    report = Report.open(settings, ObjectAccess.of(settings), options.report, dry_run=options.dry_run)
    with (
        report,
        open_execution(settings, "reindex", on_ray=on_ray) as (store, executor),
        report.workspace() as workspace,
    ):
        indexer = Indexer(settings, store, executor, report.run_id, workspace, progress=ConsoleProgress())
        result = reindex(options, settings, store, indexer, report)
    show_result(result, as_json=as_json)
    return result.exit_status
