"""`viewfinder reindex`: change the model of an index without an outage, or bring it up to date."""

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.entry import DONE, job, packages_of
from viewfinder.cli.options import (
    Captions,
    Config,
    DryRun,
    EvaluationSet,
    Index,
    Json,
    MaxFailureRatio,
    PruneMaxRatio,
    Ray,
    Report,
    examples,
    model_name,
    ratio,
    source_uri,
    whole,
)
from viewfinder.indexing.options import MAX_FAILURE_RATIO, PRUNE_MAX_RATIO
from viewfinder.reindexing.options import KEEP, MAX_QUALITY_LOSS, ReindexOptions
from viewfinder.settings import Settings

EPILOG = examples(
    "viewfinder reindex --model ViT-L-14::openai",
    "viewfinder reindex --evaluation-set queries.jsonl --dry-run",
    "viewfinder reindex --rollback",
    statuses="Exit status: 0 done or nothing to do, 1 failed or refused, 2 wrong usage or configuration.",
)


def reindex(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            parser=model_name,
            help="New model of the index. [default: VIEWFINDER_MODEL]",
            show_default=False,
        ),
    ] = None,
    index: Index = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="SRC",
            help="Read this source instead of the recorded ones. Repeatable.",
            show_default=False,
            parser=source_uri,
        ),
    ] = None,
    captions: Captions = None,
    evaluation_set: EvaluationSet = None,
    keep: Annotated[
        int, typer.Option(parser=whole(0), metavar="N", help="Number of retired collections to keep for a rollback.")
    ] = KEEP,
    max_failure_ratio: MaxFailureRatio = MAX_FAILURE_RATIO,
    prune_max_ratio: PruneMaxRatio = PRUNE_MAX_RATIO,
    max_quality_loss: Annotated[
        float,
        typer.Option(
            parser=ratio, metavar="R", help="Refuse a model whose recall or MRR on the evaluation set is lower by more."
        ),
    ] = MAX_QUALITY_LOSS,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build a new collection even if the model is the same.")
    ] = False,
    when_model_changed: Annotated[
        bool, typer.Option("--when-model-changed", help="Do nothing if the index already has the model.")
    ] = False,
    dry_run: DryRun = False,
    report: Report = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the previous collection live again and stop scheduled runs.")
    ] = False,
    release: Annotated[bool, typer.Option("--release", help="Let scheduled runs continue after a rollback.")] = False,
    ray: Ray = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Update an index, or change its model without an outage.

    If the model changes, a new collection is built beside the live one and verified before it goes live. Searches are
    answered all the time.
    """
    if rollback and release:
        raise typer.BadParameter("It cannot go with --release.", param_hint="'--rollback'")
    if rebuild and when_model_changed:
        raise typer.BadParameter("It cannot go with --when-model-changed.", param_hint="'--rebuild'")
    options = ReindexOptions(
        model=model,
        index=index,
        sources=tuple(source or ()),
        captions=captions,
        evaluation_set=evaluation_set,
        keep=keep,
        max_failure_ratio=max_failure_ratio,
        prune_max_ratio=prune_max_ratio,
        max_quality_loss=max_quality_loss,
        rebuild=rebuild,
        when_model_changed=when_model_changed,
        dry_run=dry_run,
        report=report,
        rollback=rollback,
        release=release,
    )
    settings = Settings.load(config=config, index=index, ray_address=ray or None)
    with job():
        raise typer.Exit(_run(options, settings, on_ray=ray is not None or bool(settings.ray_address), as_json=as_json))


def _run(options: ReindexOptions, settings: Settings, *, on_ray: bool, as_json: bool) -> int:
    """Run what was asked for and print its result; the exit status."""
    with packages_of("all", "reindex"):
        from viewfinder.cluster import session as cluster
        from viewfinder.cluster.executor import ClusterWork
        from viewfinder.indexing import preflight
        from viewfinder.reindexing import operations
        from viewfinder.reindexing.report import ReindexReport
        from viewfinder.reindexing.status import opened
        from viewfinder.reindexing.workflow import Reindex
        from viewfinder.sources.objects import Objects

    reach = preflight.check_target(options.model or settings.model, settings)
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        for wanted, operation in ((options.release, operations.release), (options.rollback, operations.roll_back)):
            if wanted:
                with opened(settings) as store:
                    return operation(store, settings)
        if options.when_model_changed:
            with opened(settings) as store:
                if operations.has_model(store, settings, options.model):
                    return DONE
        report = ReindexReport.open(settings, reach.access, options.report, dry_run=options.dry_run)
        with report, cluster.join(settings, reach.address) as store, report.workspace() as workspace:
            work = ClusterWork(settings, reach, store, report, workspace)
            status = Reindex(options, settings, reach, store, work, report).run()
    if as_json and not options.dry_run:
        with Objects(reach.access) as objects:
            content, _ = objects.read(f"{report.destination.rstrip('/')}/summary.json", 2**30)
        output.print_json(json.loads(content))
    return status
