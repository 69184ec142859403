"""`viewfinder evaluate`: measure search quality and speed of one collection, or of two side by side."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.entry import DONE, job, packages_of
from viewfinder.cli.options import Config, EvaluationSet, Index, Json, examples
from viewfinder.errors import ConfigurationError
from viewfinder.evaluation.options import MAX_COLLECTIONS, EvaluateOptions
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.evaluation.evaluation_set import Question
    from viewfinder.models.encoder import Vectors
    from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.evaluate")

EPILOG = examples(
    "viewfinder evaluate --evaluation-set queries.jsonl",
    "viewfinder evaluate --collection images_v1 --collection images_v2 --json",
)


def evaluate(
    evaluation_set: EvaluationSet = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            metavar="NAME",
            help="Collection to measure; give it twice to compare. [default: the live one]",
            show_default=False,
        ),
    ] = None,
    index: Index = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for evaluation.md, .json and .png.")] = Path(
        "evaluation"
    ),
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure search quality and speed.

    Reports recall, MRR, nDCG, approximate against exact search, and search times. Without an evaluation set, captions
    search for their own images.
    """
    collections = tuple(collection or ())
    if len(collections) > MAX_COLLECTIONS:
        raise typer.BadParameter(f"Give it at most {MAX_COLLECTIONS} times.", param_hint="'--collection'")
    options = EvaluateOptions(collections, evaluation_set, index, out)
    settings = Settings.load(config=config, index=index)
    with job(stopped="Stopped."):
        raise typer.Exit(_run(options, settings, as_json=as_json))


def _run(options: EvaluateOptions, settings: Settings, *, as_json: bool) -> int:
    """Evaluate, write the files and print the table; the exit status."""
    with packages_of("all", "evaluate"):
        from viewfinder.evaluation.comparison import draw, evaluate, markdown, record
        from viewfinder.reindexing.status import opened

    with opened(settings) as store:
        collections = _chosen(store, settings.index, options.collections)
        questions, vectors = _questions(store, collections, options.evaluation_set, settings)
        evaluations = evaluate(store, collections, questions, vectors)
    records = [record(each) for each in evaluations]
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "evaluation.md").write_text(markdown(evaluations))
        (options.out / "evaluation.json").write_text(json.dumps(records, indent=2))
        draw(evaluations, options.out / "evaluation.png")
    except OSError as error:
        raise ConfigurationError(f"--out: {str(options.out)!r} cannot be written: {error.strerror}.") from error
    if as_json:
        output.print_json(records)
    else:
        output.print_text(markdown(evaluations).rstrip())
    logger.info("Wrote evaluation.md, .json and .png to %s", options.out.absolute())
    return DONE


def _chosen(store: "Store", index: str, names: Sequence[str]) -> "list[Collection]":
    from viewfinder.reindexing.operations import live_of

    if not names:
        return [live_of(store, index)]
    known = {each.name: each for each in store.collections.all(index)}
    if missing := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"Index {index!r} has no collection {missing[0]!r}. It has: {', '.join(known) or 'none at all'}."
        )
    return [known[name] for name in names]


def _questions(
    store: "Store", collections: "Sequence[Collection]", evaluation_set: str | None, settings: Settings
) -> "tuple[Sequence[Question], list[Vectors]]":
    """The questions, and their vectors by the model of each collection."""
    import numpy as np

    from viewfinder.evaluation.evaluation_set import Question, load
    from viewfinder.models.checkpoint import locate
    from viewfinder.models.encoder import Encoder
    from viewfinder.reindexing.verify import shared_captions
    from viewfinder.sources.objects import ObjectAccess, Objects

    if evaluation_set is not None:
        with Objects(ObjectAccess(endpoint_url=settings.s3_endpoint_url, anonymous=settings.s3_anonymous)) as objects:
            questions = load(evaluation_set, objects)
        texts = [each.text for each in questions]
        vectors = []
        for each in collections:
            checkpoint = locate(each.metadata.model_name, expect=each.metadata.fingerprint)
            encoder = Encoder.load(checkpoint, device=settings.device, precision=settings.precision)
            vectors.append(encoder.encode_texts(texts)[0])
        return questions, vectors
    pairs = shared_captions(store, collections[0], collections[-1])
    if not pairs:
        raise ConfigurationError(
            "There are no captions to ask with. Write questions with known answers into a file and name it with "
            "--evaluation-set."
        )
    columns = [np.stack([pair[side] for pair in pairs.values()]) for side in range(2)]
    return [Question("", frozenset([id_])) for id_ in pairs], columns[: len(collections)]
