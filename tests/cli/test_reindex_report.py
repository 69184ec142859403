"""Rendering of the results of a re-index."""

import json
import re
from typing import Any

import pytest

from viewfinder.cli.reindex_report import show_release, show_result, show_rollback
from viewfinder.indexing.prune import PrunePlan
from viewfinder.reindexing.report import ReindexPlan, ReindexResult
from viewfinder.reindexing.rollback import RollbackPause, RollbackResult
from viewfinder.reindexing.verify import Check


def result(**changes: Any) -> ReindexResult:
    values: dict[str, Any] = {
        "run_id": "run-7",
        "outcome": "switched from first",
        "problem": None,
        "started_at": "2026-01-01T00:00:00+00:00",
        "seconds": 12.5,
        "index": "images",
        "collection": "second",
        "model": "ViT::b",
        "fingerprint": "f00d",
        "report": "file:///reports/run-7",
    }
    return ReindexResult(**values | changes)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Return standard output in one line, without the frames of tables."""
    return " ".join(re.sub(r"[┌─┬┐└┴┘]|^│|│$", "", capsys.readouterr().out, flags=re.MULTILINE).split())


def test_a_result_shows_checks_counts_failures_and_phases(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        Check("points", True, 1200, "= 1,200"),
        Check("MRR", False, 0.1, "≥ 0.4000"),
        Check("failed", None, None, ""),
    ]
    show_result(
        result(
            checks=checks, counts={"listed": 1200, "indexed": 3}, failures={"not_an_image": 2}, phases={"build": 10.0}
        ),
        as_json=False,
    )
    output = printed(capsys)
    for part in (
        "points ok 1,200 = 1,200",
        "MRR FAILED 0.1 ≥ 0.4000",
        "run run-7: done",
        "live second",
        "objects 1,200 listed, 3 indexed",
        "failures 2 not_an_image",
        "12.5 s: build 10.0 s",
        "report file:///reports/run-7",
    ):
        assert part in output


def test_a_problem_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    failed = result(problem="MRR is 0.1")
    show_result(failed, as_json=False)
    captured = capsys.readouterr()
    assert captured.err == "error: MRR is 0.1\n"
    assert "run\trun-7: failed" in captured.out
    assert failed.exit_status == 1


def test_a_dry_run_shows_the_plan_in_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ReindexPlan(
        "bring the live collection up to date",
        {"s3://b": ["c.json"]},
        {"index": 2, "unchanged": 10},
        PrunePlan(12, 1, 1),
    )
    show_result(result(dry_run=True, plan=plan, report=None), as_json=False)
    output = printed(capsys)
    assert "Would bring the live collection up to date; live is second." in output
    assert "from s3://b with captions c.json" in output
    assert "listed 12 would be indexed 2 unchanged 10 would be pruned 1 of 12 points" in output


def test_a_dry_run_without_a_plan_shows_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(result(dry_run=True, outcome="paused after a rollback", report=None), as_json=False)
    assert printed(capsys) == "paused after a rollback; nothing was changed."


@pytest.mark.parametrize(("missed", "words"), [(1, "1 run has"), (3, "3 runs have")])
def test_a_rollback_shows_how_old_the_collection_is(
    capsys: pytest.CaptureFixture[str], missed: int, words: str
) -> None:
    show_rollback(
        RollbackResult("first", "ViT::a", "second", "2026-01-01T00:00:00+00:00", "run-1", missed), as_json=False
    )
    output = printed(capsys)
    assert "first (model ViT::a) is live." in output
    assert f"the last run that wrote to it was run-1. Since then {words} written to second." in output
    assert "--release" in output


def test_a_release_names_the_pause_if_there_was_one(capsys: pytest.CaptureFixture[str]) -> None:
    show_release(RollbackPause("first", "second", "2026-01-01T00:00:00+00:00"), "images", as_json=False)
    assert "paused since 2026-01-01T00:00:00+00:00, when 'second' was rolled back to 'first'" in printed(capsys)
    show_release(None, "images", as_json=False)
    assert printed(capsys) == "Scheduled runs of index 'images' were not paused."


def test_with_json_a_problem_is_an_object_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(result(problem="too many failures"), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["problem"] == "too many failures"
    assert json.loads(err) == {"error": {"message": "too many failures", "exit_status": 1}}
