"""Measure quality and speed of an index: one collection, or two side by side.

python jobs/evaluate.py --evaluation-set queries.jsonl
python jobs/evaluate.py --evaluation-set queries.jsonl --collection NAME --collection NAME
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from viewfinder.cli.entry import finish
from viewfinder.evaluation.options import MAX_COLLECTIONS, EvaluateOptions
from viewfinder.settings import Settings

logger = logging.getLogger("viewfinder.evaluate")


def parse(argv: Sequence[str] | None = None) -> EvaluateOptions:
    """Read the command line; a wrong one ends the program with status 2 and one line that says why."""
    parser = argparse.ArgumentParser(
        prog="jobs/evaluate.py",
        description="Measure recall, MRR, nDCG, approximate against exact search, and search times of one or two "
        "collections.",
        epilog="Settings (Qdrant, ...) are environment variables: docs/configuration.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--evaluation-set",
        "--golden",
        metavar="FILE",
        help='JSONL of {"text", "relevant": [uris]}, local or s3:// (default: captions search for their own images)',
    )
    add(
        "--collection",
        action="append",
        default=[],
        metavar="NAME",
        dest="collections",
        help="collection to measure, as 'viewfinder status' names it (default: the live one); give it twice to compare",
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
    if len(values["collections"]) > MAX_COLLECTIONS:
        parser.error(f"--collection can be given at most {MAX_COLLECTIONS} times")
    values["collections"] = tuple(values["collections"])
    return EvaluateOptions(**values)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 done, 1 failed, 2 wrong usage or configuration."""
    options = parse(argv)
    return finish(lambda: run(options, Settings.load(index=options.index)))


def run(options: EvaluateOptions, settings: Settings) -> int:
    """Evaluate, write the files and print the table."""
    # The rest takes seconds to import; a misspelled flag is answered before.
    from viewfinder.cli import evaluate_report
    from viewfinder.cluster.session import open_store
    from viewfinder.evaluation.comparison import evaluate

    with open_store(settings) as store:
        evaluation = evaluate(options, settings, store)
    evaluate_report.save(evaluation, options.out)
    evaluate_report.show(evaluation)
    logger.info("Wrote evaluation.md, .json and .png to %s", options.out.absolute())
    return 0


if __name__ == "__main__":
    sys.exit(main())
