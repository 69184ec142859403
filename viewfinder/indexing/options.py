"""The options of one index run."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

MAX_FAILURE_RATIO = 0.01
PRUNE_MAX_RATIO = 0.2


@dataclass(frozen=True)
class IndexOptions:
    """The sources of one run, and what to do with them; everything else comes from the settings."""

    sources: tuple[str, ...]
    captions: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    index: str | None = None
    model: str | None = None
    max_objects: int | None = None
    prune: bool = False
    prune_max_ratio: float = PRUNE_MAX_RATIO
    dry_run: bool = False
    report: str | None = None
    max_failure_ratio: float = MAX_FAILURE_RATIO


# -- The command line of jobs/index.py ----------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> IndexOptions:
    """Read the command line; a wrong one ends the program with status 2 and one line that says why."""
    parser = argparse.ArgumentParser(
        prog="jobs/index.py",
        description="Index the images of S3 buckets, directories or manifests of URIs.",
        epilog="Settings (Qdrant, S3 endpoint, batch sizes, ...) are environment variables: docs/configuration.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", action="append", required=True, metavar="URI", dest="sources",
        help="s3://bucket[/prefix], a directory, file://, or a Parquet or CSV file of URIs; repeatable")  # fmt: skip
    add("--captions", metavar="URI", help="JSON, JSONL, CSV or Parquet file of captions by URI, key or relative path")
    add("--include", action="append", default=[], metavar="GLOB", help="index only objects that match; repeatable")
    add("--exclude", action="append", default=[], metavar="GLOB", help="leave out objects that match; repeatable")
    add("--index", metavar="NAME", help="name of the index (default: VIEWFINDER_INDEX, else images)")
    add("--model", metavar="NAME", help="model of a new index (default: that of the live index, else VIEWFINDER_MODEL)")
    add("--max-objects", type=count, metavar="N", help="index the first N objects only")
    add("--prune", action="store_true", help="delete points whose objects are gone, and captions no longer given")
    add("--prune-max-ratio", type=ratio, default=PRUNE_MAX_RATIO, metavar="R",
        help="refuse to prune a larger part of these sources' points (default: %(default)s)")  # fmt: skip
    add("--dry-run", action="store_true", help="list and compare, change nothing")
    add("--report", metavar="DIR", help="where summary.json and failures.jsonl go: a directory or s3://bucket/prefix")
    add("--max-failure-ratio", type=ratio, default=MAX_FAILURE_RATIO, metavar="R",
        help="end with status 1 when a larger part of the objects fails (default: %(default)s)")  # fmt: skip
    values = vars(parser.parse_args(argv))
    if values["prune"] and values["max_objects"] is not None:
        parser.error("--prune needs a complete listing, so it cannot go with --max-objects")
    for name in ("sources", "include", "exclude"):
        values[name] = tuple(values[name])
    return IndexOptions(**values)


def count(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def ratio(text: str) -> float:
    """For argparse: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
