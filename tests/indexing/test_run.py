"""Runs in this process: a real S3 endpoint, a small model, a Qdrant double over HTTP, no Ray."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fixtures.indexing import LIMITS, World
from tests.fixtures.options import index_options
from tests.images.crashing import JPEG_START
from tests.indexing.sample_images import counts, encoded_image, fill, write_captions
from viewfinder.errors import SourceError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import Preprocess, decode
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.report import Summary
from viewfinder.indexing.rows import table_of
from viewfinder.indexing.run import index
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.sources.access import HeadCheck, ObjectAccess, ObjectContent, ObjectInfo
from viewfinder.sources.manifest import write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import point_id
from viewfinder.sources.versions import Version
from viewfinder.store.recorded import SourceRecord
from viewfinder.testing.objects import MemoryObjects
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(12)]


def test_the_stored_vector_is_the_encoding_of_the_stored_image(world: World, tiny_model: str) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    checkpoint = locate(tiny_model)
    pixels = decode((world.bucket / "03.jpg").read_bytes(), checkpoint.preprocess, LIMITS).pixels
    vector = Encoder.load(checkpoint, device="cpu").encode_images(pixels[np.newaxis])[0]
    best = world.store.search.nearest(world.collection, vector, limit=1)[0]
    assert best.payload["key"] == "03.jpg"
    assert best.score == pytest.approx(1.0, abs=1e-4)


def test_only_changed_and_new_objects_are_indexed(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    before = world.points
    (world.bucket / "03.jpg").write_bytes(encoded_image(99, (64, 64)))
    (world.bucket / "new.png").write_bytes(encoded_image(100, kind="PNG"))
    assert world.sync() == counts(listed=13, unchanged=11, indexed=2)
    after = world.points
    assert after["03.jpg"].payload["width"] == 64
    assert after["03.jpg"].payload["etag"] != before["03.jpg"].payload["etag"]
    assert after["new.png"].payload["format"] == "png"
    assert all(after[name] == before[name] for name in NAMES if name != "03.jpg")


def test_an_image_that_became_unreadable_is_no_longer_found(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    (world.bucket / "05.jpg").write_bytes(b"rubbish")
    assert world.sync() == counts(listed=12, unchanged=11, skipped=1)
    assert "05.jpg" not in world.points
    assert world.recorded_failures(["05.jpg"]) == {"05.jpg": "not_an_image"}


def test_an_object_that_became_empty_is_skipped_once_and_no_longer_found(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync()
    (world.bucket / "05.jpg").write_bytes(b"")
    (world.bucket / "new.jpg").write_bytes(b"")
    assert world.sync() == counts(listed=13, unchanged=11, skipped=2)
    assert "05.jpg" not in world.points
    assert set(world.recorded_failures(["05.jpg", "new.jpg"]).values()) == {"empty"}
    assert world.sync("--max-failure-ratio", "0") == counts(listed=13, unchanged=11, skipped=2)


def test_copies_of_an_image_with_other_metadata_have_the_same_hash(world: World) -> None:
    fill(world.bucket, ["a.jpg", "b.jpg"], first_seed=7)
    image = (world.bucket / "a.jpg").read_bytes()
    (world.bucket / "copy.jpg").write_bytes(image[:2] + b"\xff\xfe\0\x07hello" + image[2:])
    world.sync()
    hashes = {name: record.payload["image_hash"] for name, record in world.points.items()}
    assert hashes["copy.jpg"] == hashes["a.jpg"] != hashes["b.jpg"]


def test_a_new_caption_is_written_without_fetching_the_image(world: World) -> None:
    fill(world.bucket, NAMES)
    captions = world.bucket / "captions.json"
    captions.write_text(json.dumps({name: f"image {name}" for name in NAMES}))
    flags = ("--captions", f"{world.source}/captions.json")
    assert world.sync(*flags)["indexed"] == 12
    assert world.points["04.jpg"].payload["caption"] == "image 04.jpg"

    captions.write_text(json.dumps({name: f"image {name}" for name in NAMES} | {"04.jpg": "the fourth"}))
    assert world.sync(*flags) == counts(listed=12, unchanged=11, indexed=1)
    assert world.images == 0
    point = world.points["04.jpg"]
    assert point.payload["caption"] == "the fourth"
    state = world.store.points.states(world.collection, [point.id])[point.id]
    assert (state.has_image, state.has_caption) == (True, True)


def test_captions_are_kept_without_the_flag_even_if_the_image_changes(world: World) -> None:
    fill(world.bucket, NAMES)
    (world.bucket / "captions.json").write_text(json.dumps({"04.jpg": "the fourth"}))
    world.sync("--captions", f"{world.source}/captions.json")
    (world.bucket / "04.jpg").write_bytes(encoded_image(99, (64, 64)))
    world.sync()
    point = world.points["04.jpg"]
    assert point.payload["width"] == 64
    assert point.payload["caption"] == "the fourth"
    assert world.store.points.states(world.collection, [point.id])[point.id].has_caption


def test_overlapping_sources_in_one_run_index_each_object_once(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "a/1.jpg", "b/2.jpg"])
    assert world.sync("--source", f"{world.source}/a")["listed"] == 3
    assert world.points["a/0.jpg"].payload["sources"] == sorted([world.source, f"{world.source}/a"])


def test_max_objects_limits_the_number_indexed(world: World) -> None:
    fill(world.bucket, NAMES)
    assert world.sync("--max-objects", "5") == {
        "listed": 5,
        "unchanged": 0,
        "indexed": 5,
        "skipped": 0,
        "failed": 0,
        "pruned": 0,
    }
    assert sorted(world.points) == NAMES[:5]


def test_include_and_exclude_select_objects(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "a/1.png", "b/2.jpg"])
    world.sync("--include", "*.jpg", "--exclude", "b/*")
    assert set(world.points) == {"a/0.jpg"}


def test_local_directories_and_manifests_are_sources_too(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "images"
    fill(directory, ["x.jpg", "sub/y.jpg"])
    assert world.sync(source=str(directory))["indexed"] == 2
    fill(world.bucket, ["z.jpg"], first_seed=9)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{world.source}/z.jpg\n{world.source}/z.jpg\n{world.source}/missing.jpg\n")
    assert world.sync(source=str(manifest)) == {
        "listed": 2,
        "unchanged": 0,
        "indexed": 1,
        "skipped": 0,
        "failed": 1,
        "pruned": 0,
    }
    assert world.recorded_failures(["missing.jpg"]) == {"missing.jpg": "not_found"}
    assert world.sync(source=str(manifest)) == {
        "listed": 2,
        "unchanged": 1,
        "indexed": 0,
        "skipped": 0,
        "failed": 1,
        "pruned": 0,
    }


@pytest.mark.parametrize("given", [{"etag": "0" * 31 + "1"}, {"etag": "old", "size": 5}], ids=["digest", "with a size"])
def test_an_old_etag_in_a_manifest_makes_no_run_read_the_object_again(
    world: World, tmp_path: Path, given: dict[str, Any]
) -> None:
    """The ETag of the manifest never was the one that was read, so the object seemed to change in each run."""
    fill(world.bucket, ["a.jpg"])
    (world.bucket / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    rows = [{"uri": f"{world.source}/{name}", **given} for name in ("a.jpg", "bad.jpg")]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    options = index_options(["--source", str(manifest)])
    first = world.sync(source=str(manifest))
    assert (first["indexed"], first["failed"]) == (1, 1)
    assert world.indexer("run").plan(options, world.collection).actions == {"failed": 1, "unchanged": 1}
    fill(world.bucket, ["a.jpg"], first_seed=9)
    assert world.indexer("run").plan(options, world.collection).actions == {"failed": 1, "index": 1}


class Gateway(MemoryObjects):
    """An endpoint whose listing, HEAD and GET tell different versions of the same object."""

    listed: Version  # with fields that differ from those of the object
    more = 0  # bytes more in GET

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        for info in super().list(source):
            size = info.size + self.listed.size
            yield replace(info, etag=self.listed.etag, size=size, last_modified=self.listed.last_modified)

    def stat(self, uri: str) -> ObjectInfo:
        return replace(super().stat(uri), etag="opaque", last_modified="2026-01-01T00:00:01Z")

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        content = super().read(uri, max_bytes, check_head)
        return content._replace(version=content.version._replace(size=content.version.size + self.more))


@pytest.mark.parametrize(
    ("listed", "more", "reads"),
    [
        (Version("opaque", 0, "2026-01-01T00:00:00Z"), 3000, 1),  # it decodes
        (Version("opaque", 0, ""), 3000, 1),
        (Version("opaque", 0, "2026-01-01T00:00:00Z"), -10, 3),
        (Version("other", 0, "2026-01-01T00:00:00Z"), 0, 1),  # a time is rounded
        (Version("other", 0, "2026-01-01T00:00:00Z"), 3000, 1),
        (Version("other", 0, ""), 0, 1),
        (Version("other", 0, ""), 3000, 2),  # HEAD gives the size of GET once it is asked
        (Version("", 0, ""), 3000, 1),
    ],
)
def test_no_object_is_read_in_every_run_whatever_an_endpoint_tells_of_it(
    world: World, listed: Version, more: int, reads: int
) -> None:
    objects = Gateway({"s3://b/a.jpg": encoded_image(1)})
    objects.listed, objects.more = listed, more
    world.access = ObjectAccess(backends=(("s3", objects),))
    for _ in range(4):
        world.sync(source="s3://b")
    assert len(objects.uris_read) == reads
    objects.contents["s3://b/a.jpg"] = encoded_image(2, (64, 64))
    world.sync(source="s3://b")
    assert len(objects.uris_read) > reads, "the change is lost"


def test_an_endpoint_with_one_etag_for_all_objects_and_no_times_in_listings_is_asked_for_them(world: World) -> None:
    objects = Gateway({"s3://b/a.jpg": encoded_image(1), "s3://b/b.jpg": encoded_image(2, (64, 64))})
    objects.listed = Version("0", 0, "")
    world.access = ObjectAccess(backends=(("s3", objects),))
    for _ in range(3):
        world.sync(source="s3://b")
    assert len(objects.uris_read) == 2


def test_new_objects_of_a_manifest_without_sizes_are_statted(world: World, tmp_path: Path) -> None:
    """The limit on bytes in flight had no effect without sizes: 32 images of 100 MB were in memory at once."""
    fill(world.bucket, ["a.jpg"])
    content = (world.bucket / "a.jpg").read_bytes()
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri,etag\n{world.source}/a.jpg,{hashlib.md5(content).hexdigest()}\n")
    with Objects(world.access) as objects:
        (part,) = write_manifest([str(manifest)], tmp_path, objects).paths
    (row,) = Compare(world.access, world.store.address, None)(pq.read_table(part)).to_pylist()
    assert (row["action"], row["size"]) == ("index", len(content))
    assert world.sync(source=str(manifest))["indexed"] == 1
    (world.bucket / "a.jpg").unlink()
    assert world.sync(source=str(manifest))["unchanged"] == 1, "an object with a recorded ETag is not statted"


def test_a_failure_is_not_fetched_again_until_the_object_changes(world: World, qdrant: QdrantDouble) -> None:
    fill(world.bucket, NAMES)
    (world.bucket / "bad.jpg").write_bytes(encoded_image(77)[:30])
    assert world.sync()["failed"] == 1
    assert world.sync() == counts(listed=13, unchanged=12, failed=1)
    assert world.images == 0
    (world.bucket / "bad.jpg").write_bytes(encoded_image(77))
    assert world.sync() == counts(listed=13, unchanged=12, indexed=1)
    assert world.recorded_failures(["bad.jpg"]) == {}


@pytest.mark.chaos("S3", "an object vanishes between list and get")
def test_an_object_that_vanished_after_the_listing_fails_and_is_retried(world: World, tmp_path: Path) -> None:
    fill(world.bucket, ["z.jpg"])
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{world.source}/z.jpg\n{world.source}/late.jpg\n")
    assert world.sync(source=str(manifest))["failed"] == 1
    (world.bucket / "late.jpg").write_bytes(encoded_image(5))
    assert world.sync(source=str(manifest)) == {
        "listed": 2,
        "unchanged": 1,
        "indexed": 1,
        "skipped": 0,
        "failed": 0,
        "pruned": 0,
    }


@pytest.mark.chaos("Qdrant", "503 at the first upserts")
def test_a_short_outage_of_the_store_loses_nothing(world: World, qdrant: QdrantDouble) -> None:
    fill(world.bucket, NAMES)
    qdrant.faults.extend(Fault(status=503, on=r"PUT .*/points") for _ in range(3))
    assert world.sync()["indexed"] == 12
    assert set(world.points) == set(NAMES)
    assert not qdrant.faults, "a fault was not hit"


@pytest.mark.chaos("Files", "images that crash, hang or swell their decoder, in the pipeline")
def test_an_image_that_crashes_hangs_or_exhausts_its_decoder_fails_alone(world: World) -> None:
    good = encoded_image(1)
    contents = {
        "0.jpg": b"chatter " + good,
        "1.jpg": b"signal 11",
        "2.jpg": b"hang",
        "3.jpg": b"eat",
        "4.jpg": b"chatter " + good,
    }
    contents = {name: JPEG_START + content for name, content in contents.items()}
    for name, content in contents.items():
        (world.bucket / name).write_bytes(content)
    rows = [
        {"action": "index", "count": 1, "uri": f"{world.source}/{name}", "size": len(content)}
        for name, content in contents.items()
    ]
    with Decoder(
        Preprocess(32), LIMITS, timeout_s=4, memory_bytes=512 * 2**20, entry="tests.images.crashing:decode"
    ) as decoder:
        stage = FetchAndDecode(
            world.access,
            Preprocess(32),
            LIMITS,
            threads=2,
            timeout_s=4,
            memory_bytes=512 * 2**20,
            decoder=lambda: nullcontext(decoder),
        )
        done = stage(table_of(rows)).to_pylist()
    assert [row["action"] for row in done] == ["index", "failed", "failed", "failed", "index"]
    assert done[0]["decode_s"] > 4, "the time of the image that hangs is not counted"
    assert [row["reason"] for row in done] == [
        None,
        "decoder_crashed",
        "decode_timeout",
        "decoder_out_of_memory",
        None,
    ]
    assert all(row["stage"] == "decode" for row in done if row["action"] == "failed")
    assert len(done[4]["pixels"]) == 32 * 32 * 3


def test_an_image_whose_end_is_missing_is_indexed_and_counted(world: World) -> None:
    (world.bucket / "whole.jpg").write_bytes(encoded_image(1))
    (world.bucket / "cut.jpg").write_bytes(encoded_image(2)[:-2])
    (world.bucket / "half.jpg").write_bytes(encoded_image(3, (480, 400))[:-3000])

    def run() -> Summary:
        options = index_options(["--source", world.source, "--model", world.model])
        settings = world.settings().model_copy(update={"data_dir": world.directory})
        summary = index(options, settings, world.store, world.executor, access=world.access)
        assert isinstance(summary, Summary)
        return summary

    first = run()
    assert (first.counts["indexed"], dict(first.failures)) == (2, {"truncated": 1})
    assert first.warnings == {"truncated_tail": 1}
    assert {kind: list(uris) for kind, uris in first.warned.items()} == {"truncated_tail": [f"{world.source}/cut.jpg"]}
    assert run().warnings == {}, "an unchanged image is not counted again"


def test_a_changed_caption_and_a_new_source_are_both_recorded(world: World) -> None:
    fill(world.bucket, ["a/0.jpg"])
    captions = world.bucket / "captions.json"
    captions.write_text(json.dumps({"a/0.jpg": "one"}))
    flags = ("--captions", f"{world.source}/captions.json")
    world.sync(*flags, source=f"{world.source}/a")
    captions.write_text(json.dumps({"a/0.jpg": "another"}))
    world.sync(*flags)
    payload = world.points["a/0.jpg"].payload
    assert payload["caption"] == "another"
    assert payload["sources"] == sorted([world.source, f"{world.source}/a"])


def test_a_run_with_max_objects_does_not_replace_the_recorded_source(world: World) -> None:
    fill(world.bucket, NAMES)
    (world.bucket / "captions.json").write_text("{}")
    world.sync("--captions", f"{world.source}/captions.json")
    world.sync("--max-objects", "3", "--include", "0*.jpg")
    (source,) = world.collection.recorded.sources.values()
    assert source == SourceRecord(world.source)
    world.sync()
    assert world.collection.recorded.captions_of(world.source) == [f"{world.source}/captions.json"]


def test_an_image_beyond_our_limits_is_not_broken(world: World) -> None:
    (world.bucket / "wide.png").write_bytes(encoded_image(1, (4000, 4000), "PNG"))
    for _ in range(2):
        assert world.sync()["failed"] == 1
        assert world.images == 0
        assert world.recorded_failures(["wide.png"]) == {"wide.png": "too_many_pixels"}
    failures = world.store.control(world.index).failures([point_id(f"{world.source}/wide.png")])
    assert not next(iter(failures.values())).permanent


def test_a_source_that_is_gone_does_not_block_the_others(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "b/1.jpg", "b/2.jpg"])
    flags = ("--source", f"{world.source}/b")
    world.sync(*flags, source=f"{world.source}/a")
    (world.bucket / "a" / "0.jpg").unlink()
    (world.bucket / "a").rmdir()
    (world.bucket / "b" / "3.jpg").write_bytes(encoded_image(5))
    counts = world.sync(*flags, "--prune", source=f"{world.source}/a")
    assert counts == {"listed": 3, "unchanged": 2, "indexed": 1, "skipped": 0, "failed": 0, "pruned": 0}
    (problem,) = world.problems
    assert f"'{world.source}/a' is left out" in problem
    assert "a/0.jpg" in world.points
    with pytest.raises(SourceError):
        world.sync(source=f"{world.source}/a")


def test_several_captions_files_are_merged_and_recorded_in_their_order(world: World) -> None:
    fill(world.bucket, NAMES)
    january = write_captions(world, "january.json", _00="zero", _01="one")
    february = write_captions(world, "february.json", _01="another one", _02="two")
    world.sync("--captions", january, "--captions", february)
    captions = {name: world.points[f"{name}.jpg"].payload.get("caption") for name in ("00", "01", "02")}
    assert captions == {"00": "zero", "01": "another one", "02": "two"}
    assert world.collection.recorded.captions_of(world.source) == [january, february]
    world.sync("--captions", january)
    assert world.collection.recorded.captions_of(world.source) == [february, january]
    assert world.points["01.jpg"].payload["caption"] == "one"
    assert world.points["02.jpg"].payload["caption"] == "two"
