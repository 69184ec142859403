"""Dry runs of a re-index, over a real S3 endpoint and a Qdrant double."""

import json
import re

import pytest

from tests.fixtures.reindexing import Index
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.cli.reindex_report import show_result
from viewfinder.indexing.prune import PrunePlan
from viewfinder.reindexing.report import ReindexPlan
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow


def test_a_dry_run_counts_what_it_would_do_and_writes_nothing(
    index: Index, qdrant: QdrantDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    (index.world.bucket / "03.jpg").write_bytes(encoded_image(99, (64, 64)))
    (index.world.bucket / "05.jpg").unlink()
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    before = len(qdrant.requests)

    assert index.reindex("--dry-run") == 0
    plan = plan_of(index)
    assert plan.step.startswith("build a new collection for model")
    assert plan.sources == {index.world.source: []}
    assert plan.actions == {"index": 12}
    show_result(index.result, as_json=True)
    assert json.loads(capsys.readouterr().out)["plan"]["actions"] == {"index": 12}

    assert index.reindex("--dry-run", "--model", index.models[0]) == 0
    plan = plan_of(index)
    assert plan.step == "bring the live collection up to date"
    assert plan.actions == {"index": 2, "unchanged": 10}
    assert plan.gone == PrunePlan(points=12, detached=1, deleted=1)

    reading = re.compile(r"GET /|POST /collections/[^/]+/points(/(scroll|count|query|query/batch))?$")
    requests = [f"{each.method} {each.path}" for each in qdrant.requests[before:]]
    assert [each for each in requests if not reading.match(each)] == []
    assert not list(index.world.directory.glob("reindex-*")), "no report either"


def test_a_dry_run_counts_what_an_unfinished_build_still_lacks(index: Index) -> None:
    for name in ("bad.jpg", "worse.jpg"):
        (index.world.bucket / name).write_bytes(b"\xff\xd8\xff broken")
    assert index.reindex() == 1
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    assert index.reindex("--dry-run") == 0
    plan = plan_of(index)
    assert plan.step.startswith("continue with")
    assert plan.actions == {"failed": 2, "index": 1, "unchanged": 12}


@pytest.mark.parametrize("model", [0, 1], ids=["update", "model change"])
def test_a_dry_run_reports_a_refused_prune_like_the_run(index: Index, model: int) -> None:
    """It ended with the error and without a plan."""
    for file in index.world.bucket.glob("0*.jpg"):
        file.unlink()
    (index.world.bucket / "0.jpg").write_bytes(encoded_image(7, (64, 64)))
    flags = ("--model", index.models[model], "--prune-max-ratio", "0.1")
    assert index.reindex("--dry-run", *flags) == (0 if model else 1)
    plan = plan_of(index)
    assert plan.actions["index"] >= 1
    if model == 0:
        assert plan.gone is None
        assert index.result is not None
        told = index.result.problem
        assert "more than --prune-max-ratio 0.1 allows" in (told or "")
        assert index.reindex(*flags) == 1
        assert index.result.problem == told


def plan_of(index: Index) -> ReindexPlan:
    assert index.result is not None
    assert index.result.plan is not None
    return index.result.plan
