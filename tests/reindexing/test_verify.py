"""Checks that prevent the promotion of a new collection, over a real S3 endpoint and a Qdrant double."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.errors import ConfigurationError
from viewfinder.models.checkpoint import locate
from viewfinder.sources.objects import Objects
from viewfinder.sources.versions import Version
from viewfinder.store.records import PointBatch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("content", [b"\xff\xd8\xff broken", b"not an image"])
def test_images_that_only_the_live_collection_has_prevent_the_promotion(index: Index, content: bytes) -> None:
    index.world.index, index.world.model = "lenient", index.models[0]
    index.world.sync()
    # The live collection has an image of this content; the new run finds none.
    (index.world.bucket / "03.jpg").write_bytes(content)
    record = next(each for each in index.store.points.iterate(index.live) if each.payload["key"] == "03.jpg")
    etag, size, last_modified = _version(index, "03.jpg")
    same = dict(record.payload) | {"etag": etag, "size": size, "last_modified": last_modified}
    vector = index.store.points.vectors(index.live, [record.id])[record.id]
    index.store.points.upsert(index.live, PointBatch([record.id], [same], image=vector[np.newaxis]), wait=True)
    assert index.reindex("--index", "lenient", "--max-failure-ratio", "0.5") == 1
    assert index.failed_checks == ["failed, but live"]


def test_a_failure_that_says_nothing_about_the_content_does_not_drop_a_live_image(index: Index) -> None:
    # Regression: an image that had changed and could not be read was dropped by the change of model.
    # 16 megapixels are more than the limit of the tests.
    (index.world.bucket / "03.jpg").write_bytes(encoded_image(99, (4000, 4000)))
    assert index.reindex("--max-failure-ratio", "0.5") == 1
    assert index.summary["failures"] == {"too_many_pixels": 1}
    assert index.failed_checks == ["failed, but live"]


def test_too_many_failures_prevent_the_promotion(index: Index) -> None:
    for name in ("bad.jpg", "worse.jpg"):
        (index.world.bucket / name).write_bytes(b"\xff\xd8\xff broken")
    assert index.reindex() == 1
    assert index.failed_checks == ["failed"]
    assert "--rebuild" in index.summary["problem"]
    assert index.summary["failures"] == {"corrupt": 2}
    assert index.reindex("--max-failure-ratio", "0.5") == 0


def test_a_bad_model_fails_on_the_evaluation_set(index: Index, tmp_path: Path) -> None:
    """The first model finds the images by construction; the other one is as good as chance."""
    path = _evaluation_set_for_the_first_model(index, tmp_path)
    before = index.live
    assert index.reindex("--evaluation-set", str(path)) == 1
    assert "MRR" in index.failed_checks
    assert "recall@1" in index.summary["problem"]
    assert index.live == before
    assert index.states == {"first 1": "live", "other 2": "ready"}
    assert set(index.world.points) == set(NAMES)


def test_a_loss_of_quality_can_be_allowed(index: Index, tmp_path: Path) -> None:
    path = _evaluation_set_for_the_first_model(index, tmp_path)
    assert index.reindex("--evaluation-set", str(path), "--max-quality-loss", "1") == 0
    assert index.live.metadata.model_name == index.models[1]


def test_an_evaluation_set_of_another_index_is_refused(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps({"text": "a cat", "relevant": ["s3://elsewhere/1.jpg"]}))
    with pytest.raises(ConfigurationError, match="None of the 1 images"):
        index.reindex("--evaluation-set", str(path))
    assert index.states == {"first 1": "live"}


def test_without_an_evaluation_set_captions_search_for_their_own_images(index: Index) -> None:
    world = index.world
    names = [f"{number:02}.jpg" for number in range(60)]
    fill(world.bucket, names)
    (world.bucket / "captions.json").write_text(json.dumps({name: f"number {name}" for name in names}))
    world.sync("--captions", f"{world.source}/captions.json")
    _move_images_to_their_captions(index)
    assert index.reindex() == 1
    assert {"recall@1", "MRR"} <= set(index.failed_checks)
    assert "60 captions" in next(each["note"] for each in index.summary["checks"] if each["name"] == "MRR")


def test_a_stored_vector_of_another_model_prevents_the_promotion(index: Index) -> None:
    def damage(number: int) -> None:
        if number == 2:
            target = index.store.collections.all("images")[-1]
            record = next(index.store.points.iterate(target))
            vector = np.eye(1, 16, dtype=np.float32)
            index.store.points.upsert(target, PointBatch([record.id], [record.payload], image=vector), wait=True)

    assert index.reindex(meanwhile=damage) == 1
    assert "fresh encoding" in index.failed_checks
    assert index.reindex() == 1, "the collection is still the same"
    assert index.reindex("--rebuild") == 0
    assert index.states == {"first 1": "retired", "other 2": "live"}


def _version(index: Index, name: str) -> Version:
    with Objects(index.world.access) as objects:
        return objects.stat(f"{index.world.source}/{name}").version


def _evaluation_set_for_the_first_model(index: Index, directory: Path) -> Path:
    """Write queries, and give their images in the live collection the vectors of the queries by the first model."""
    names = NAMES[:6]
    texts = [f"the image {name}" for name in names]
    vectors = index.world.indexer("queries").encode_texts(locate(index.models[0]), texts)
    by_key = index.world.points
    records = [by_key[name] for name in names]
    batch = PointBatch([each.id for each in records], [each.payload for each in records], image=vectors)
    index.store.points.upsert(index.live, batch, wait=True)
    path = directory / "queries.jsonl"
    lines = [
        json.dumps({"text": text, "relevant": [f"{index.world.source}/{name}"]})
        for text, name in zip(texts, names, strict=True)
    ]
    path.write_text("\n".join(lines))
    return path


def _move_images_to_their_captions(index: Index) -> None:
    records = list(index.world.points.values())
    captions = index.store.points.vectors(index.live, [each.id for each in records], "caption")
    vectors = np.stack([captions[each.id] for each in records])
    batch = PointBatch(
        [each.id for each in records], [each.payload for each in records], image=vectors, caption=vectors
    )
    index.store.points.upsert(index.live, batch, wait=True)


@pytest.mark.parametrize(("measured", "status"), [([90.0, 9.0], 0), ([90.0, 90.0], 1)], ids=["once", "twice"])
def test_only_a_collection_that_is_slow_twice_is_refused(
    index: Index, monkeypatch: pytest.MonkeyPatch, measured: list[float], status: int
) -> None:
    """Another program had taken the processor, and a model change of hours was refused."""
    times = iter(measured)
    monkeypatch.setattr("viewfinder.reindexing.verify.search_times_ms", lambda *_, **__: [[next(times)], [8.0]])
    assert index.reindex() == status
    assert next(times, None) is None
