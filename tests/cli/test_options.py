"""The options of index and reindex, as records, and `--ray` with and without an address."""

import re
import shlex

import pytest

from tests.cli.conftest import ROOT
from tests.fixtures.options import index_options, reindex_options
from viewfinder.cli.options import join_ray_address
from viewfinder.indexing.options import IndexOptions
from viewfinder.reindexing.options import ReindexOptions


@pytest.mark.parametrize("flags", [["s3://b"], ["--source", "s3://b"]])
def test_index_needs_only_a_source(flags: list[str]) -> None:
    assert index_options(flags) == IndexOptions(sources=("s3://b",))


def test_every_option_of_index_is_parsed() -> None:
    line = (
        "a --source b --captions c.json --captions d.csv --include *.jpg --exclude t/* --index x --model demo "
        "--max-objects 5 --prune --prune-max-ratio 0.3 --prune-captions --prune-captions-max-ratio 0.4 "
        "--retry-failed --dry-run --report r "
        "--max-failure-ratio 0.5"
    )
    assert index_options(line.split()) == IndexOptions(
        sources=("a", "b"),
        captions=("c.json", "d.csv"),
        include=("*.jpg",),
        exclude=("t/*",),
        index="x",
        model="demo",
        max_objects=5,
        prune=True,
        prune_max_ratio=0.3,
        prune_captions=True,
        prune_captions_max_ratio=0.4,
        retry_failed=True,
        dry_run=True,
        report="r",
        max_failure_ratio=0.5,
    )


def test_reindex_needs_no_option() -> None:
    assert reindex_options([]) == ReindexOptions()


@pytest.mark.parametrize("evaluation_set", ["--evaluation-set", "--golden"])
def test_every_option_of_reindex_is_parsed(evaluation_set: str) -> None:
    line = (
        f"--model demo --index x --source a --source b --captions c.json {evaluation_set} g.jsonl --keep 0 --report r "
        "--prune-captions --prune-captions-max-ratio 0.4 --retry-failed "
        "--max-failure-ratio 0.5 --prune-max-ratio 0.4 --max-quality-loss 0.1 --rebuild --dry-run"
    )
    assert reindex_options(line.split()) == ReindexOptions(
        model="demo",
        index="x",
        sources=("a", "b"),
        captions=("c.json",),
        evaluation_set="g.jsonl",
        keep=0,
        report="r",
        max_failure_ratio=0.5,
        prune_max_ratio=0.4,
        prune_captions=True,
        prune_captions_max_ratio=0.4,
        retry_failed=True,
        max_quality_loss=0.1,
        rebuild=True,
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("line", "joined"),
    [
        ("photos", "photos"),
        ("--ray", "--ray="),
        ("--ray photos", "--ray= photos"),
        ("--ray s3://bucket", "--ray= s3://bucket"),
        ("--ray --prune", "--ray= --prune"),
        ("--ray auto photos", "--ray=auto photos"),
        ("--ray 10.0.0.1:6379 photos", "--ray=10.0.0.1:6379 photos"),
        ("--ray head:6379", "--ray=head:6379"),
        ("--ray [::1]:6379", "--ray=[::1]:6379"),
        ("--ray ray://head:10001", "--ray=ray://head:10001"),
        ("--ray=auto", "--ray=auto"),
        ("-- --ray auto", "-- --ray auto"),
    ],
)
def test_the_address_of_ray_is_optional(line: str, joined: str) -> None:
    assert join_ray_address(line.split()) == joined.split()


CRONTAB = [
    line.strip()
    for line in (ROOT / "docs" / "changing-models.md").read_text().splitlines()
    if re.match(r"    [\d*]\S* .*jobs/reindex", line)
]
# minute, hour, day of month, month, day of week
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def test_the_crontab_in_the_documentation_has_entries() -> None:
    assert len(CRONTAB) == 2


@pytest.mark.parametrize("entry", CRONTAB)
def test_each_crontab_entry_in_the_documentation_is_a_valid_job(entry: str) -> None:
    *fields, command = entry.split(maxsplit=5)
    for value, (minimum, maximum) in zip(fields, RANGES, strict=True):
        assert value == "*" or minimum <= int(value) <= maximum
    assert "%" not in command, "cron reads it as the end of the line"
    change_directory, run = command.split(" && ")
    assert shlex.split(change_directory) == ["cd", "/srv/viewfinder"]
    python, script, *flags = shlex.split(run)
    assert python == ".venv/bin/python"
    assert (ROOT / script).is_file()
    assert reindex_options(flags).evaluation_set == "s3://bucket/queries.jsonl"
