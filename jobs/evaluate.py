"""Measure how good and how fast an index answers: one collection, or two side by side.

python jobs/evaluate.py --golden golden.jsonl
python jobs/evaluate.py --golden golden.jsonl --collection NAME --collection NAME
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from viewfinder.cli.entry import finish, stdout
from viewfinder.errors import ConfigurationError
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.evaluation.evaluation_set import Question
    from viewfinder.models.encoder import Vectors
    from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.evaluate")


@dataclass(frozen=True)
class Options:
    """What is measured; without `collections` the live one."""

    collections: tuple[str, ...] = ()
    golden: str | None = None
    index: str | None = None
    out: Path = Path("evaluation")


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; a wrong one ends the program with status 2 and one line that says why."""
    parser = argparse.ArgumentParser(
        prog="jobs/evaluate.py",
        description="Recall, MRR, nDCG, approximate against exact search, and query times of one collection or two.",
        epilog="Settings (Qdrant, ...) are environment variables: docs/configuration.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--golden",
        metavar="FILE",
        help='JSONL of {"text", "relevant": [uris]}, local or s3:// (default: captions ask for their own pictures)',
    )
    add(
        "--collection",
        action="append",
        default=[],
        metavar="NAME",
        dest="collections",
        help="collection to measure, as jobs/reindex.py --status names it (default: the live one); twice at most",
    )
    add("--index", metavar="NAME", help="name of the index (default: VIEWFINDER_INDEX, else images)")
    add(
        "--out",
        type=Path,
        default=Path("evaluation"),
        metavar="DIR",
        help="directory for evaluation.md, .json and .png (default: %(default)s)",
    )
    values = vars(parser.parse_args(argv))
    if len(values["collections"]) > 2:
        parser.error("--collection can be given twice: two stand side by side")
    values["collections"] = tuple(values["collections"])
    return Options(**values)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 done, 1 failed, 2 wrong usage or configuration."""
    options = parse(argv)
    return finish(lambda: run(options, Settings.load(index=options.index)))


def run(options: Options, settings: Settings) -> int:
    """The flow, from questions to table and picture."""
    from viewfinder.cluster.session import open_store
    from viewfinder.evaluation.comparison import draw, evaluate, markdown, record

    with open_store(settings) as store:
        collections = _chosen(store, settings.index, options.collections)
        questions, vectors = _questions(store, collections, options.golden, settings)
        evaluations = evaluate(store, collections, questions, vectors)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "evaluation.md").write_text(markdown(evaluations))
        (options.out / "evaluation.json").write_text(json.dumps([record(each) for each in evaluations], indent=2))
        draw(evaluations, options.out / "evaluation.png")
    except OSError as error:
        raise ConfigurationError(f"--out: {str(options.out)!r} cannot be written: {error.strerror}.") from error
    stdout().print(markdown(evaluations), end="", soft_wrap=True)
    logger.info("%s, with evaluation.md, .json and .png", options.out.absolute())
    return 0


def _chosen(store: "Store", index: str, names: Sequence[str]) -> "list[Collection]":

    if not names:
        return [store.collections.require_live(index)]
    known = {each.name: each for each in store.collections.all(index)}
    if missing := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"Index {index!r} has no collection {missing[0]!r}. It has: {', '.join(known) or 'none at all'}."
        )
    return [known[name] for name in names]


def _questions(
    store: "Store", collections: "Sequence[Collection]", golden: str | None, settings: Settings
) -> "tuple[Sequence[Question], list[Vectors]]":
    """The questions, and their vectors by the model of each collection."""
    import numpy as np

    from viewfinder.evaluation.evaluation_set import Question, load
    from viewfinder.models.checkpoint import locate
    from viewfinder.models.encoder import Encoder
    from viewfinder.reindexing.verify import shared_captions
    from viewfinder.sources.objects import ObjectAccess, Objects

    if golden is not None:
        with Objects(ObjectAccess.of(settings)) as objects:
            questions = load(golden, objects)
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
            "--golden."
        )
    columns = [np.stack([pair[side] for pair in pairs.values()]) for side in range(2)]
    return [Question("", frozenset([id_])) for id_ in pairs], columns[: len(collections)]


if __name__ == "__main__":
    sys.exit(main())
