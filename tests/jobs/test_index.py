"""The job from end to end: a real S3 endpoint, a real Ray, a real small model, Qdrant's wire."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs.conftest import World
from tests.jobs.pictures import fill, picture
from viewfinder.encoder import Encoder
from viewfinder.images import ImageLimits, decode
from viewfinder.models import locate
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.cluster

NAMES = [f"{number:02}.jpg" for number in range(12)]


def test_a_bucket_becomes_an_index_and_a_rerun_leaves_it_alone(world: World, tiny_model: str) -> None:
    fill(world.bucket, [*NAMES, "deep/er/中文 name.jpg"])
    assert world.run() == 0
    assert world.counts == {"listed": 13, "unchanged": 0, "indexed": 13, "failed": 0, "pruned": 0}
    assert world.failures == {}
    first = world.points
    assert set(first) == {*NAMES, "deep/er/中文 name.jpg"}
    payload = first["00.jpg"].payload
    assert payload["uri"] == f"{world.source}/00.jpg"
    assert (payload["width"], payload["height"], payload["format"]) == (48, 40, "jpeg")
    assert payload["sources"] == [world.source]
    assert payload["run_id"] == world.summary["run_id"]
    assert payload["size"] == (world.bucket / "00.jpg").stat().st_size

    assert world.run() == 0
    assert world.counts == {"listed": 13, "unchanged": 13, "indexed": 0, "failed": 0, "pruned": 0}
    assert world.points == first
    metadata = world.collection.metadata
    assert metadata.model_name == tiny_model
    assert [source["source"] for source in metadata.sources] == [world.source]
    assert len(metadata.runs) == 2


def test_the_stored_vector_is_the_encoding_of_the_stored_picture(world: World, tiny_model: str) -> None:
    fill(world.bucket, NAMES)
    assert world.run() == 0
    checkpoint = locate(tiny_model)
    pixels = decode((world.bucket / "03.jpg").read_bytes(), checkpoint.preprocess, ImageLimits(10**7, 10**7)).pixels
    vector = Encoder.load(checkpoint, device="cpu").encode_images(pixels[np.newaxis])[0]
    best = world.store.search(world.collection, vector, limit=1)[0]
    assert best.payload["key"] == "03.jpg"
    assert best.score == pytest.approx(1.0, abs=1e-4)


def test_changed_and_new_objects_are_indexed_and_nothing_else(world: World) -> None:
    fill(world.bucket, NAMES)
    assert world.run() == 0
    before = world.points
    (world.bucket / "03.jpg").write_bytes(picture(99, (64, 64)))
    (world.bucket / "new.png").write_bytes(picture(100, kind="PNG"))
    assert world.run() == 0
    assert world.counts == {"listed": 13, "unchanged": 11, "indexed": 2, "failed": 0, "pruned": 0}
    after = world.points
    assert after["03.jpg"].payload["width"] == 64
    assert after["03.jpg"].payload["etag"] != before["03.jpg"].payload["etag"]
    assert after["new.png"].payload["format"] == "png"
    assert all(after[name] == before[name] for name in NAMES if name != "03.jpg")


def test_every_broken_file_is_accounted_for_and_not_fetched_again(world: World, qdrant: QdrantDouble) -> None:
    fill(world.bucket, NAMES)
    good = picture(1)
    broken = {
        "empty.jpg": b"",
        "text.jpg": b"this is no picture at all",
        "cut.jpg": picture(2, (400, 400))[:900],
        "page.html": b"<html><body>not here</body></html>",
        "huge.png": _bomb(),
    }
    for name, content in broken.items():
        (world.bucket / name).write_bytes(content)
    (world.bucket / "no-suffix").write_bytes(good)
    assert world.run() == 1, "five of eighteen is more than one in a hundred"
    assert world.counts == {"listed": 18, "unchanged": 0, "indexed": 13, "failed": 5, "pruned": 0}
    reasons = world.failures
    assert set(reasons) == set(broken)
    assert reasons["empty.jpg"] == "empty"
    assert reasons["text.jpg"] == "not_an_image"
    assert reasons["cut.jpg"] == "truncated"
    assert reasons["huge.png"] == "too_many_pixels"

    assert world.run("--max-failure-ratio", "0.5") == 0
    assert world.counts == {"listed": 18, "unchanged": 13, "indexed": 0, "failed": 5, "pruned": 0}
    assert world.failures == reasons
    assert world.summary["pictures"] == 0, "nothing was fetched"

    (world.bucket / "text.jpg").write_bytes(picture(3))
    assert world.run("--max-failure-ratio", "0.5") == 0
    assert world.counts == {"listed": 18, "unchanged": 13, "indexed": 1, "failed": 4, "pruned": 0}
    assert "text.jpg" not in world.failures


def test_a_picture_that_turned_into_rubbish_is_no_longer_found(world: World) -> None:
    fill(world.bucket, NAMES)
    assert world.run() == 0
    (world.bucket / "05.jpg").write_bytes(b"rubbish")
    assert world.run("--max-failure-ratio", "0.5") == 0
    assert "05.jpg" not in world.points
    assert world.failures == {"05.jpg": "not_an_image"}


def test_a_new_caption_is_written_without_fetching_the_picture(world: World) -> None:
    fill(world.bucket, NAMES)
    captions = world.bucket / "captions.json"
    captions.write_text(json.dumps({name: f"picture {name}" for name in NAMES}))
    flags = ("--captions", f"{world.source}/captions.json")
    assert world.run(*flags) == 0
    assert world.counts["indexed"] == 12
    assert world.points["04.jpg"].payload["caption"] == "picture 04.jpg"

    captions.write_text(json.dumps({name: f"picture {name}" for name in NAMES} | {"04.jpg": "the fourth"}))
    assert world.run(*flags) == 0
    assert world.counts == {"listed": 12, "unchanged": 11, "indexed": 1, "failed": 0, "pruned": 0}
    assert world.summary["pictures"] == 0
    point = world.points["04.jpg"]
    assert point.payload["caption"] == "the fourth"
    state = world.store.states(world.collection, [point.id])[point.id]
    assert (state.has_image, state.has_caption) == (True, True)


def test_captions_stay_untouched_without_the_flag_even_when_the_picture_changes(world: World) -> None:
    fill(world.bucket, NAMES)
    (world.bucket / "captions.json").write_text(json.dumps({"04.jpg": "the fourth"}))
    assert world.run("--captions", f"{world.source}/captions.json") == 0
    (world.bucket / "04.jpg").write_bytes(picture(99, (64, 64)))
    assert world.run() == 0
    point = world.points["04.jpg"]
    assert point.payload["width"] == 64
    assert point.payload["caption"] == "the fourth"
    assert world.store.states(world.collection, [point.id])[point.id].has_caption


def test_a_caption_no_longer_given_stays_until_a_prune(world: World) -> None:
    fill(world.bucket, NAMES)
    captions = world.bucket / "captions.json"
    captions.write_text(json.dumps({"04.jpg": "the fourth", "05.jpg": "the fifth"}))
    flags = ("--captions", f"{world.source}/captions.json")
    assert world.run(*flags) == 0
    captions.write_text(json.dumps({"05.jpg": "the fifth"}))
    assert world.run(*flags) == 0
    assert world.points["04.jpg"].payload["caption"] == "the fourth"
    assert world.run(*flags, "--prune") == 0
    point = world.points["04.jpg"]
    assert not point.payload.get("caption")
    assert not world.store.states(world.collection, [point.id])[point.id].has_caption
    assert world.points["05.jpg"].payload["caption"] == "the fifth"


def test_a_prune_deletes_what_is_gone(world: World) -> None:
    fill(world.bucket, NAMES)
    assert world.run() == 0
    (world.bucket / "07.jpg").unlink()
    assert world.run() == 0
    assert "07.jpg" in world.points, "without --prune nothing is deleted"
    assert world.run("--prune") == 0
    assert world.counts["pruned"] == 1
    assert set(world.points) == set(NAMES) - {"07.jpg"}


def test_a_prune_of_a_large_part_is_refused_and_changes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world.bucket, NAMES)
    assert world.run() == 0
    for name in NAMES[:4]:
        (world.bucket / name).unlink()
    assert world.run("--prune") == 1
    assert "4 of the 12 points" in capsys.readouterr().err
    assert len(world.points) == 12
    assert world.run("--prune", "--prune-max-ratio", "0.5") == 0
    assert len(world.points) == 8


def test_a_prune_behind_other_patterns_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world.bucket, NAMES)
    assert world.run() == 0
    assert world.run("--prune", "--exclude", "07.jpg") == 1
    assert "--exclude" in capsys.readouterr().err
    assert len(world.points) == 12


def test_a_point_in_two_sources_outlives_the_loss_of_one(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "b/5.jpg"])
    inner, outer = f"{world.source}/a", world.source
    assert world.run(source=inner) == 0
    assert world.run(source=outer) == 0
    assert world.counts == {"listed": 6, "unchanged": 5, "indexed": 1, "failed": 0, "pruned": 0}
    assert world.points["a/0.jpg"].payload["sources"] == sorted([inner, outer])
    assert world.points["b/5.jpg"].payload["sources"] == [outer]

    # Excluded from the outer source for good: only the inner one still holds it.
    (world.bucket / "b" / "5.jpg").unlink()
    assert world.run("--prune", source=outer) == 0
    assert set(world.points) == {f"a/{number}.jpg" for number in range(5)}


def test_overlapping_sources_in_one_run_index_each_object_once(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "a/1.jpg", "b/2.jpg"])
    assert world.run("--source", f"{world.source}/a") == 0
    assert world.counts["listed"] == 3
    assert world.points["a/0.jpg"].payload["sources"] == sorted([world.source, f"{world.source}/a"])


def test_a_dry_run_says_what_would_happen_and_changes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world.bucket, NAMES)
    assert world.run("--dry-run") == 0
    assert "12" in capsys.readouterr().out
    assert world.store.live(world.index) is None
    assert world.run() == 0
    before = world.points
    fill(world.bucket, ["new.jpg"], first_seed=50)
    (world.bucket / "07.jpg").unlink()
    assert world.run("--dry-run", "--prune") == 0
    said = capsys.readouterr().out
    assert "would be indexed" in said
    assert "would be pruned" in said
    assert world.points == before


def test_a_limit_indexes_that_many(world: World) -> None:
    fill(world.bucket, NAMES)
    assert world.run("--limit", "5") == 0
    assert world.counts["listed"] == world.counts["indexed"] == 5
    assert sorted(world.points) == NAMES[:5]


def test_include_and_exclude_choose(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "a/1.png", "b/2.jpg"])
    assert world.run("--include", "*.jpg", "--exclude", "b/*") == 0
    assert set(world.points) == {"a/0.jpg"}


def test_another_model_is_refused_with_both_fingerprints(
    world: World, tiny_model: str, other_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world.bucket, NAMES[:2])
    assert world.run() == 0
    assert world.run("--model", other_model) == 1
    said = capsys.readouterr().err
    assert locate(tiny_model).fingerprint in said
    assert locate(other_model).fingerprint in said
    assert "jobs/reindex.py" in said


def test_without_a_model_a_run_follows_the_live_collection(
    world: World, other_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world.bucket, NAMES[:2])
    assert world.run() == 0
    monkeypatch.setenv("VIEWFINDER_MODEL", other_model)
    fill(world.bucket, ["new.jpg"], first_seed=50)
    assert world.run() == 0
    assert world.counts["indexed"] == 1


@pytest.mark.parametrize(
    ("flags", "environment", "status", "said"),
    [
        (["--source", "s3://no-such-bucket"], {}, 2, "no-such-bucket"),
        (["--source", "SOURCE/no/such/prefix"], {}, 2, "no/such/prefix"),
        (["--source", "/no/such/directory"], {}, 2, "/no/such/directory"),
        (["--source", "gs://bucket/x"], {}, 2, "gs://"),
        (["--source", "SOURCE", "--model", "ViT-B-23::openai"], {}, 2, "ViT-B-32::openai"),
        (["--source", "SOURCE"], {"VIEWFINDER_QDRANT_URL": "http://127.0.0.1:9"}, 1, "http://127.0.0.1:9"),
        (["--source", "SOURCE"], {"AWS_SECRET_ACCESS_KEY": "wrong"}, 2, "secret"),
        (["--source", "SOURCE"], {"VIEWFINDER_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, 2, "http://127.0.0.1:9"),
        (["--source", "SOURCE"], {"VIEWFINDER_MODLE": "demo"}, 2, "VIEWFINDER_MODEL"),
        (["--source", "SOURCE", "--captions", "SOURCE/none.json"], {}, 2, "none.json"),
    ],
)
def test_a_mistake_is_one_clear_message(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    environment: dict[str, str],
    status: int,
    said: str,
) -> None:
    fill(world.bucket, NAMES[:2])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    from jobs.index import main

    assert main([flag.replace("SOURCE", world.source) for flag in flags]) == status
    error = capsys.readouterr().err
    message = error[error.index("error: ") :]
    assert said in message
    assert "Traceback" not in error
    assert "wrong" not in message, "a secret is never repeated"


def _bomb() -> bytes:
    """A PNG of 20,000 by 20,000 pixels in few bytes."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def test_local_directories_and_manifests_are_sources_too(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "pictures"
    fill(directory, ["x.jpg", "sub/y.jpg"])
    assert world.run(source=str(directory)) == 0
    assert world.counts["indexed"] == 2
    fill(world.bucket, ["z.jpg"], first_seed=9)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{world.source}/z.jpg\n{world.source}/z.jpg\n{world.source}/missing.jpg\n")
    assert world.run("--max-failure-ratio", "0.5", source=str(manifest)) == 0
    assert world.counts == {"listed": 2, "unchanged": 0, "indexed": 1, "failed": 1, "pruned": 0}
    assert world.failures == {"missing.jpg": "not_found"}
    assert world.run("--max-failure-ratio", "0.5", source=str(manifest)) == 0
    assert world.counts == {"listed": 2, "unchanged": 1, "indexed": 0, "failed": 1, "pruned": 0}
