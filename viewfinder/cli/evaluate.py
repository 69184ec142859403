"""`viewfinder evaluate`: measure search quality and speed of one collection, or compare two."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.entry import DONE, job
from viewfinder.cli.index import check_local_files
from viewfinder.cli.options import ConfigOption, EvaluationSetOption, IndexNameOption, JsonOption, examples, optional
from viewfinder.evaluation.options import MAX_COLLECTIONS, EvaluateOptions
from viewfinder.extras import packages_of
from viewfinder.settings import Settings

logger = logging.getLogger("viewfinder.evaluate")

EPILOG = examples(
    "viewfinder evaluate --evaluation-set queries.jsonl",
    "viewfinder evaluate --collection images_v1 --collection images_v2 --json",
)


def evaluate_command(
    evaluation_set: EvaluationSetOption = None,
    collection: Annotated[
        list[str] | None,
        optional(
            "--collection",
            metavar="NAME",
            help="Collection to measure. Repeat to compare two. [default: the live one]",
        ),
    ] = None,
    index: IndexNameOption = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for evaluation.md, .json and .png.")] = Path(
        "evaluation"
    ),
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure search quality and speed.

    Reports recall, MRR, nDCG, recall of approximate against exact search, and search times. Without an evaluation set,
    captions are used as queries for their own images.
    """
    collections = tuple(collection or ())
    if len(collections) > MAX_COLLECTIONS:
        raise typer.BadParameter(f"Accepts at most {MAX_COLLECTIONS} collections.", param_hint="'--collection'")
    options = EvaluateOptions(collections, evaluation_set, index, out)
    settings = Settings.load(config=config, index=index)
    check_local_files(evaluation_set)
    with job(stopped="Stopped."):
        raise typer.Exit(_run_evaluation(options, settings, as_json=as_json))


def _run_evaluation(options: EvaluateOptions, settings: Settings, *, as_json: bool) -> int:
    """Evaluate, write the files, print the table and return the exit status."""
    with packages_of("local", "'viewfinder evaluate'"):
        from viewfinder.cli.evaluate_report import markdown, save
        from viewfinder.cluster.session import store_of
        from viewfinder.evaluation.comparison import evaluate

    with store_of(settings) as store:
        evaluation = evaluate(options, settings, store)
    save(evaluation, options.out)
    if as_json:
        output.print_json(evaluation.as_record())
    else:
        output.print_text(markdown(evaluation).rstrip())
    logger.info("Wrote evaluation.md, .json and .png to %s", options.out.absolute())
    return DONE
