"""Runs in this process: a real S3 endpoint, a small model, a Qdrant double over HTTP, no Ray."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fixtures.indexing import LIMITS, World
from tests.fixtures.options import index_options
from tests.images.crashing import NOT_TEXT
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import Preprocess, decode
from viewfinder.indexing.compare import Compare
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.prune import PruneRefusedError
from viewfinder.indexing.report import Summary
from viewfinder.indexing.rows import Row, table_of
from viewfinder.indexing.run import index
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.sources.access import HeadCheck, ObjectAccess, ObjectContent
from viewfinder.sources.manifest import write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import point_id
from viewfinder.store.recorded import SourceRecord
from viewfinder.testing.objects import MemoryObjects
from viewfinder.testing.qdrant import Fault, QdrantDouble

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(12)]


def counts(**given: int) -> dict[str, int]:
    """The counts of a run; those not given are 0."""
    return dict.fromkeys(("listed", "unchanged", "indexed", "skipped", "failed", "pruned"), 0) | given


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


def test_a_prune_of_an_emptied_source_is_refused(world: World) -> None:
    fill(world.bucket, ["a/0.jpg", "b/1.jpg"])
    world.sync(source=f"{world.source}/a")
    (world.bucket / "a" / "0.jpg").unlink()
    with pytest.raises(ConfigurationError):
        world.sync("--prune", source=f"{world.source}/a")
    assert set(world.points) == {"a/0.jpg"}


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
    contents = {name: NOT_TEXT + content for name, content in contents.items()}
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
    assert run().warnings == {}, "an unchanged image is not counted again"


class Guarded(MemoryObjects):
    """S3 that allows listing, and reading only the objects that are not in `denied`, up to `bytes_sent`."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        super().__init__(contents)
        self.denied: set[str] = set()
        self.bytes_sent: int | None = None

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        if uri in self.denied:
            self.uris_read.append(uri)
            raise ObjectError("access_denied", f"Could not read {uri!r}: AccessDenied.")
        if self.bytes_sent is None:
            return super().read(uri, max_bytes, check_head)
        data = self.contents[uri][: self.bytes_sent]
        if check_head is not None:
            check_head(data)
        return ObjectContent(data, self.stat(uri).version._replace(size=len(data)))


@pytest.fixture
def guarded() -> Iterator[tuple[Guarded, FetchAndDecode]]:
    """Fifty images, and the stage that reads them."""
    objects = Guarded({f"s3://b/{number:02}": encoded_image(number) for number in range(50)})
    with Decoder(Preprocess(32), LIMITS, timeout_s=4, memory_bytes=2**30) as decoder:
        yield (
            objects,
            FetchAndDecode(
                ObjectAccess(),
                Preprocess(32),
                LIMITS,
                threads=2,
                timeout_s=4,
                memory_bytes=2**30,
                objects=lambda: Objects(s3=objects),
                decoder=lambda: nullcontext(decoder),
            ),
        )


def test_a_body_that_is_cut_off_is_not_taken_for_a_text(guarded: tuple[Guarded, FetchAndDecode]) -> None:
    """The first four bytes of a GIF are `GIF8`; its point was deleted."""
    bucket, stage = guarded
    bucket.contents["s3://b/gif"] = encoded_image(1, kind="GIF")
    bucket.bytes_sent = 4
    etag, size, _ = bucket.stat("s3://b/gif").version
    row: Row = {"action": "index", "count": 1, "uri": "s3://b/gif", "size": size, "etag": etag}
    (done,) = stage(table_of([row])).to_pylist()
    assert (done["action"], done["reason"], done["permanent"]) == ("failed", "unavailable", False)


def _fetch(guarded: tuple[Guarded, FetchAndDecode]) -> list[dict[str, Any]]:
    objects, stage = guarded
    rows = [{"action": "index", "count": 1, "uri": uri, "size": 10, "etag": ""} for uri in objects.contents]
    done: list[dict[str, Any]] = stage(table_of(rows)).to_pylist()
    return done


def test_objects_without_access_are_failures_and_the_others_are_indexed(
    guarded: tuple[Guarded, FetchAndDecode],
) -> None:
    """Twenty objects of another account, one after the other, ended every run before its prune."""
    guarded[0].denied = {f"s3://b/{number:02}" for number in range(5, 48)}
    for _ in range(2):
        done = _fetch(guarded)
        assert [row["action"] for row in done] == ["index"] * 5 + ["failed"] * 43 + ["index"] * 2
        assert {row["reason"] for row in done} == {None, "access_denied"}
        assert done[0]["fetch_s"] > 0, "the time of failed reads is not counted"


def test_a_run_that_can_read_nothing_from_the_start_records_failures(
    guarded: tuple[Guarded, FetchAndDecode],
) -> None:
    guarded[0].denied = set(guarded[0].contents)
    assert all(row["reason"] == "access_denied" for row in _fetch(guarded))


def test_a_run_ends_if_an_object_that_it_has_read_is_refused(guarded: tuple[Guarded, FetchAndDecode]) -> None:
    assert all(row["action"] == "index" for row in _fetch(guarded))
    guarded[0].denied = set(guarded[0].contents)
    with pytest.raises(
        ConfigurationError, match=r"20 objects in a row was denied.*'s3://b/49', which this run has read"
    ):
        _fetch(guarded)


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
    assert world.sync(*sources, "--prune", source=f"{world.source}/a")["pruned"] == 1
    (problem,) = world.problems
    assert "1 of the 2 points of" in problem
    assert set(world.points) == {*(f"a/{number}.jpg" for number in range(1, 12)), "b/0.jpg", "b/1.jpg"}


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


def write_captions(world: World, name: str, **texts: str) -> str:
    path = world.bucket / name
    path.write_text(json.dumps({f"{key[1:]}.jpg": text for key, text in texts.items()}))
    return f"{world.source}/{name}"


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
