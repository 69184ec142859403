"""The command line of `jobs/reindex.py`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from viewfinder.indexing.options import MAX_FAILURE_RATIO, PRUNE_MAX_RATIO, count, ratio

KEEP = 1
MAX_QUALITY_LOSS = 0.05


@dataclass(frozen=True)
class ReindexOptions:
    """What one run shall do; the rest comes from the settings."""

    model: str | None = None
    index: str | None = None
    sources: tuple[str, ...] = ()
    captions: str | None = None
    golden: str | None = None
    keep: int = KEEP
    max_failure_ratio: float = MAX_FAILURE_RATIO
    prune_max_ratio: float = PRUNE_MAX_RATIO
    max_quality_loss: float = MAX_QUALITY_LOSS
    rebuild: bool = False
    when_model_changed: bool = False
    dry_run: bool = False
    report: str | None = None
    rollback: bool = False
    release: bool = False
    status: bool = False


def parse(argv: Sequence[str] | None = None) -> ReindexOptions:
    """Read the command line; a wrong one ends the program with status 2 and one line that says why."""
    parser = argparse.ArgumentParser(
        prog="jobs/reindex.py",
        description="Bring an index up to date; where its model has changed, build it anew beside the live one, verify "
        "the new collection, and switch.",
        epilog="Settings (Qdrant, S3 endpoint, batch sizes, ...) are environment variables: docs/configuration.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    instead = parser.add_mutually_exclusive_group()
    add("--model", metavar="NAME", help="the model that the index shall have (default: VIEWFINDER_MODEL)")
    add("--index", metavar="NAME", help="name of the index (default: VIEWFINDER_INDEX, else images)")
    add("--source", action="append", default=[], metavar="URI", dest="sources",
        help="read these instead of the recorded sources; repeatable")  # fmt: skip
    add("--captions", metavar="URI", help="captions file to read instead of the recorded ones")
    add("--golden", metavar="FILE",
        help='JSONL of {"text", "relevant": [uris]}, local or s3://, to compare the models on')  # fmt: skip
    add("--keep", type=_whole, default=KEEP, metavar="N",
        help="how many former collections to keep for a rollback (default: %(default)s)")  # fmt: skip
    add("--max-failure-ratio", type=ratio, default=MAX_FAILURE_RATIO, metavar="R",
        help="do not switch when a larger part of the objects fails (default: %(default)s)")  # fmt: skip
    add("--prune-max-ratio", type=ratio, default=PRUNE_MAX_RATIO, metavar="R",
        help="do not let the index lose a larger part of its points (default: %(default)s)")  # fmt: skip
    add("--max-quality-loss", type=ratio, default=MAX_QUALITY_LOSS, metavar="R",
        help="how far golden recall and MRR may fall below the live model's (default: %(default)s)")  # fmt: skip
    add("--rebuild", action="store_true", help="build a new collection even with the same model")
    add("--when-model-changed", action="store_true", help="do nothing where the index has the wanted model already")
    add("--dry-run", action="store_true", help="say what would be done, change nothing")
    add("--report", metavar="DIR", help="where summary.json and failures.jsonl go: a directory or s3://bucket/prefix")
    instead.add_argument("--rollback", action="store_true",
        help="switch back to the collection before, and hold scheduled runs")  # fmt: skip
    instead.add_argument("--release", action="store_true", help="lift the hold that a rollback leaves")
    instead.add_argument("--status", action="store_true", help="show the collections of the index")
    values = vars(parser.parse_args(argv))
    if values["rebuild"] and values["when_model_changed"]:
        parser.error("--rebuild builds even with the same model, which --when-model-changed rules out")
    values["sources"] = tuple(values["sources"])
    return ReindexOptions(**values)


def _whole(text: str) -> int:
    return 0 if text == "0" else count(text)
