"""Prunes: what a complete listing no longer has is deleted, and nothing else."""

import json
from pathlib import Path

import pytest

from tests.fixtures.indexing import World
from tests.fixtures.options import index_options
from tests.indexing.sample_images import encoded_image, fill, write_captions
from viewfinder.errors import ConfigurationError
from viewfinder.indexing.prune import PruneRefusedError
from viewfinder.models.checkpoint import locate

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(12)]


def test_an_unlisted_caption_is_kept_until_a_prune(world: World) -> None:
    fill(world.bucket, NAMES)
    captions = world.bucket / "captions.json"
    captions.write_text(json.dumps({"04.jpg": "the fourth", "05.jpg": "the fifth"}))
    flags = ("--captions", f"{world.source}/captions.json")
    world.sync(*flags)
    captions.write_text(json.dumps({"05.jpg": "the fifth"}))
    world.sync(*flags, "--prune")
    assert world.points["04.jpg"].payload["caption"] == "the fourth"
    with pytest.raises(PruneRefusedError, match="1 of the 2 captions"):
        world.sync(*flags, "--prune-captions")
    assert world.points["04.jpg"].payload["caption"] == "the fourth"
    world.sync(*flags, "--prune-captions", "--prune-captions-max-ratio", "0.5")
    point = world.points["04.jpg"]
    assert not point.payload.get("caption")
    assert not world.store.points.states(world.collection, [point.id])[point.id].has_caption
    assert world.points["05.jpg"].payload["caption"] == "the fifth"


def test_a_prune_deletes_points_of_missing_objects(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    (world.bucket / "07.jpg").unlink()
    world.sync()
    assert "07.jpg" in world.points, "without --prune nothing is deleted"
    assert world.sync("--prune")["pruned"] == 1
    assert set(world.points) == set(NAMES) - {"07.jpg"}


def test_a_point_in_two_sources_survives_the_loss_of_one(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "b/5.jpg"])
    inner, outer = f"{world.source}/a", world.source
    world.sync(source=inner)
    assert world.sync(source=outer) == {
        "listed": 6,
        "unchanged": 5,
        "indexed": 1,
        "skipped": 0,
        "failed": 0,
        "pruned": 0,
    }
    assert world.points["a/0.jpg"].payload["sources"] == sorted([inner, outer])
    assert world.points["b/5.jpg"].payload["sources"] == [outer]

    # Excluded from the outer source for good: only the inner one still holds it.
    (world.bucket / "b" / "5.jpg").unlink()
    world.sync("--prune", source=outer)
    assert set(world.points) == {f"a/{number}.jpg" for number in range(5)}


def test_a_prune_above_the_ratio_is_refused_and_changes_nothing(
    world: World,
) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    for name in NAMES[:4]:
        (world.bucket / name).unlink()
    with pytest.raises(PruneRefusedError, match="4 of the 12 points"):
        world.sync("--prune")
    assert len(world.points) == 12
    world.sync("--prune", "--prune-max-ratio", "0.5")
    assert len(world.points) == 8


def test_a_prune_with_different_patterns_is_refused(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    with pytest.raises(PruneRefusedError, match="different --exclude patterns"):
        world.sync("--prune", "--exclude", "07.jpg")
    assert len(world.points) == 12


def test_a_prune_of_an_emptied_source_is_refused(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "b/1.jpg"])
    world.sync(source=f"{world.source}/a")
    (world.bucket / "a" / "0.jpg").unlink()
    with pytest.raises(ConfigurationError):
        world.sync("--prune", source=f"{world.source}/a")
    assert set(world.points) == {"a/0.jpg"}


def test_an_empty_source_is_not_pruned_and_does_not_block_the_others(world: World, tmp_path: Path) -> None:
    fill(world.bucket, [*(f"a/{number}.jpg" for number in range(6)), "b/1.jpg"])
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{world.source}/b/1.jpg\n")
    world.sync("--source", str(manifest), source=f"{world.source}/a")
    manifest.write_text("uri\n")
    (world.bucket / "a" / "0.jpg").unlink()
    assert world.sync("--source", str(manifest), "--prune", source=f"{world.source}/a")["pruned"] == 1
    (problem,) = world.problems
    assert "list.csv" in problem
    assert set(world.points) == {*(f"a/{number}.jpg" for number in range(1, 6)), "b/1.jpg"}


def test_a_prune_spares_what_another_run_indexed_since_its_listing_began(world: World) -> None:
    """Run A listed, run B listed later and indexed new.jpg, and A pruned it."""
    fill(world.bucket, NAMES)
    world.sync()
    content = (world.bucket / "07.jpg").read_bytes()
    (world.bucket / "07.jpg").unlink()
    (world.bucket / "08.jpg").unlink()

    def index_more(number: int) -> None:
        (world.bucket / "new.jpg").write_bytes(encoded_image(50))
        (world.bucket / "07.jpg").write_bytes(content + b"changed")
        world.sync()

    options = index_options(["--source", world.source, "--prune"])
    result = world.indexer("20250101T000000-early", index_more).sync(options, world.collection, locate(world.model))
    assert result.pruned == 1
    assert set(world.points) == {*NAMES, "new.jpg"} - {"08.jpg"}


def test_the_prune_ratio_holds_for_each_source(world: World) -> None:
    """A source that lists a fraction at that moment lost the rest, if the run had larger sources beside it."""
    fill(world.bucket, [f"a/{number}.jpg" for number in range(12)] + ["b/0.jpg", "b/1.jpg"])
    sources = ("--source", f"{world.source}/b")
    world.sync(*sources, source=f"{world.source}/a")
    (world.bucket / "b" / "1.jpg").unlink()
    (world.bucket / "a" / "0.jpg").unlink()
    options = index_options(["--source", f"{world.source}/a", *sources, "--prune"])
    assert ["1 of the 2" in each for each in world.indexer("dry").plan(options, world.collection).problems] == [True]
    assert world.sync(*sources, "--prune", source=f"{world.source}/a")["pruned"] == 1
    (problem,) = world.problems
    assert "1 of the 2 points of" in problem
    assert "This source is not pruned" in problem
    assert set(world.points) == {*(f"a/{number}.jpg" for number in range(1, 12)), "b/0.jpg", "b/1.jpg"}


def test_a_prune_of_captions_spares_what_another_run_has_written_since(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync("--captions", write_captions(world, "old.json", _00="zero", _01="one", _02="two"))
    late = write_captions(world, "late.json", _01="late")
    new = write_captions(world, "new.json", _00="zero")
    options = index_options(
        ["--source", world.source, "--captions", new, "--prune-captions", "--prune-captions-max-ratio", "1"]
    )

    def describe(number: int) -> None:
        world.sync("--captions", late)

    result = world.indexer("20250101T000000-early", describe).sync(options, world.collection, locate(world.model))
    assert result.pruned_captions == 1
    assert [world.points[name].payload.get("caption") for name in NAMES[:3]] == ["zero", "late", None]
