"""The options of a re-index, and the command line of `jobs/reindex.py`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from viewfinder.indexing.options import MAX_FAILURE_RATIO, PRUNE_MAX_RATIO, count, ratio

KEEP = 1
MAX_QUALITY_LOSS = 0.05

Action = Literal["reindex", "rollback", "release", "status"]


@dataclass(frozen=True)
class ReindexOptions:
    """The options of one re-index; everything else comes from the settings."""

    model: str | None = None
    index: str | None = None
    sources: tuple[str, ...] = ()
    captions: str | None = None
    evaluation_set: str | None = None
    keep: int = KEEP
    max_failure_ratio: float = MAX_FAILURE_RATIO
    prune_max_ratio: float = PRUNE_MAX_RATIO
    max_quality_loss: float = MAX_QUALITY_LOSS
    rebuild: bool = False
    when_model_changed: bool = False
    dry_run: bool = False
    report: str | None = None


def parse(argv: Sequence[str] | None = None) -> ReindexOptions:
    """Read the options from the command line, whatever the action is."""
    return parse_action(argv)[1]


def parse_action(argv: Sequence[str] | None = None) -> tuple[Action, ReindexOptions]:
    """Read the command line; a wrong one ends the program with status 2 and one line that says why."""
    parser = argparse.ArgumentParser(
        prog="jobs/reindex.py",
        description="Bring an index up to date. If its model has changed: build a new collection beside the live one, "
        "verify it, and promote it.",
        epilog="Settings (Qdrant, S3 endpoint, batch sizes, ...) are environment variables: docs/configuration.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help="model that the index shall have (default: VIEWFINDER_MODEL)")
    add("--index", metavar="NAME", help="name of the index (default: VIEWFINDER_INDEX, else images)")
    add("--source", action="append", default=[], metavar="URI", dest="sources",
        help="read these instead of the recorded sources; repeatable")  # fmt: skip
    add("--captions", metavar="URI", help="captions file to read instead of the recorded ones")
    add("--evaluation-set", "--golden", metavar="FILE",
        help='JSONL of {"text", "relevant": [uris]}, local or s3://, to compare the models on')  # fmt: skip
    add("--keep", type=_whole, default=KEEP, metavar="N",
        help="number of retired collections to keep for a rollback (default: %(default)s)")  # fmt: skip
    add("--max-failure-ratio", type=ratio, default=MAX_FAILURE_RATIO, metavar="R",
        help="do not promote when a larger share of the objects fails (default: %(default)s)")  # fmt: skip
    add("--prune-max-ratio", type=ratio, default=PRUNE_MAX_RATIO, metavar="R",
        help="do not let the index lose a larger share of its points (default: %(default)s)")  # fmt: skip
    add("--max-quality-loss", type=ratio, default=MAX_QUALITY_LOSS, metavar="R",
        help="how far recall and MRR may fall below those of the live model (default: %(default)s)")  # fmt: skip
    add("--rebuild", action="store_true", help="build a new collection even with the same model")
    add("--when-model-changed", action="store_true", help="do nothing if the index has the wanted model already")
    add("--dry-run", action="store_true", help="say what would be done, change nothing")
    add("--report", metavar="DIR", help="where summary.json and failures.jsonl go: a directory or s3://bucket/prefix")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--rollback", dest="action", action="store_const", const="rollback",
        help="make the previous collection live again, and pause scheduled runs")  # fmt: skip
    action.add_argument("--release", dest="action", action="store_const", const="release",
        help="end the pause of scheduled runs that a rollback leaves")  # fmt: skip
    action.add_argument("--status", dest="action", action="store_const", const="status",
        help="show the collections of the index")  # fmt: skip
    parser.set_defaults(action="reindex")
    values = vars(parser.parse_args(argv))
    if values["rebuild"] and values["when_model_changed"]:
        parser.error("--rebuild contradicts --when-model-changed: it builds even with the same model")
    values["sources"] = tuple(values["sources"])
    return values.pop("action"), ReindexOptions(**values)


def _whole(text: str) -> int:
    return 0 if text == "0" else count(text)
