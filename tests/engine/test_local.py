"""The engine in this process: indexing, models, takedowns."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.engine.photos import Open, stored
from tests.indexing.sample_images import encoded_image, fill
from viewfinder import ImageSearchEngine
from viewfinder.errors import (
    CollectionMissingError,
    ConfigurationError,
    ModelMismatchError,
    SourceError,
    UnknownModelError,
)
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store import StoreAddress, open_local

pytestmark = pytest.mark.slow


def test_a_directory_is_indexed_and_found(local: Open, photos: Path, tiny_model: str) -> None:
    engine = local()
    result = engine.index_directory(photos, descriptions={"a.jpg": "a red car", "deep/c d.jpg": "two birds"})
    assert (result.listed, result.indexed, result.unchanged, result.failed) == (3, 3, 0, 0)
    assert result.unmatched == ()

    assert len(engine.search("a red car", top_k=2)) == 2
    first = engine.search("two birds", target="caption").hits[0]
    assert first.uri == canonical_uri(str(photos / "deep/c d.jpg"))
    assert (first.id, first.caption, first.width, first.height) == (point_id(first.uri), "two birds", 48, 40)
    assert first.score == pytest.approx(1, abs=1e-5)
    batch = engine.search_batch(["a red car", "two birds"], top_k=1, target="caption")
    assert [found.hits[0].caption for found in batch] == ["a red car", "two birds"]
    # More than one batch takes, by hits and by comparisons.
    assert len(engine.search_batch(["a red car"] * 11, top_k=200, collapse="near")) == 11

    stats = engine.get_stats()
    assert (stats.points, stats.model, stats.index, stats.collection) == (3, tiny_model, "images", result.collection)


def test_the_directory_of_a_model_has_one_name_in_every_spelling(
    local: Open, photos: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: a relative directory was recorded as it was given, and the index worked only from its parent.
    monkeypatch.chdir(Path(tiny_model).parent)
    with local(model_name=f"./{Path(tiny_model).name}") as engine:
        engine.index_directory(photos, descriptions={})
        assert engine.get_stats().model == tiny_model
    monkeypatch.chdir("/")
    assert local().index_directory(photos, descriptions={}).unchanged == 3


def test_points_metadata_and_report_equal_those_of_a_job(local: Open, photos: Path, tmp_path: Path) -> None:
    engine = local()
    engine.index_directory(photos, descriptions={"a.jpg": "a red car"})
    engine.close()

    source = canonical_uri(str(photos))
    payload = stored(tmp_path / "data")["a.jpg"].payload
    assert (payload["caption"], payload["tags"], payload["meta"]) == ("a red car", [], {})
    assert payload["sources"] == [source]
    with open_local(StoreAddress(data_dir=tmp_path / "data")) as store:
        live = store.collections.live("images")
    assert live is not None
    assert [each.run_id for each in live.recorded.runs] == [payload["run_id"]]
    assert list(live.recorded.sources) == [source]
    assert live.metadata.counts == {"listed": 3, "unchanged": 0, "indexed": 3, "skipped": 0, "failed": 0, "pruned": 0}
    summary = json.loads((tmp_path / "data" / "runs" / payload["run_id"] / "summary.json").read_text())
    assert summary["state"] == "done", "the report is that of a job"


def test_a_rerun_keeps_unchanged_points(local: Open, photos: Path, tmp_path: Path) -> None:
    engine = local()
    engine.index_directory(photos, descriptions={"a.jpg": "a red car"})
    engine.close()
    before = stored(tmp_path / "data")

    engine = local()
    again = engine.index_directory(photos)
    assert (again.indexed, again.unchanged) == (0, 3)
    engine.close()
    assert stored(tmp_path / "data") == before


def test_a_changed_caption_or_image_updates_only_that_part(local: Open, photos: Path, tmp_path: Path) -> None:
    engine = local()
    engine.index_directory(photos, descriptions={"a.jpg": "a red car", "b.jpg": "a boat"})
    (photos / "b.jpg").write_bytes(encoded_image(99, (64, 32)))
    result = engine.index_directory(photos, descriptions={"a.jpg": "a blue car"})
    assert (result.indexed, result.unchanged) == (2, 1)
    assert engine.search("a blue car", target="caption").hits[0].score == pytest.approx(1, abs=1e-5)
    engine.close()
    points = stored(tmp_path / "data")
    assert points["a.jpg"].payload["caption"] == "a blue car"
    # Without a description in this run, its caption stays.
    assert (points["b.jpg"].payload["caption"], points["b.jpg"].payload["width"]) == ("a boat", 64)
    assert points["b.jpg"].payload["has_caption"] is True


def test_invalid_images_are_reported_and_the_others_indexed(local: Open, photos: Path) -> None:
    (photos / "text.jpg").write_text("this is not an image")
    (photos / "cut.jpg").write_bytes(encoded_image(5, (400, 400))[:900])
    engine = local()
    result = engine.index_directory(photos)
    assert (result.listed, result.indexed, result.skipped, result.failed) == (5, 3, 1, 1)
    assert result.skips["not_an_image"] == 1
    assert {Path(each.uri).name: (each.stage, each.reason) for each in result.failures} == {
        "cut.jpg": ("decode", "truncated"),
    }
    # Known failures are reported again without reading the file, until it changes.
    again = engine.index_directory(photos)
    assert (again.unchanged, again.skipped, again.failed) == (3, 1, 1)
    (photos / "text.jpg").write_bytes(encoded_image(6))
    repaired = engine.index_directory(photos)
    assert (repaired.indexed, repaired.failed, repaired.unchanged) == (1, 1, 3)


def test_an_image_that_became_invalid_is_no_longer_found(local: Open, photos: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    (photos / "a.jpg").write_text("not an image any more")
    assert engine.index_directory(photos).skips["not_an_image"] == 1
    assert {Path(hit.uri).name for hit in engine.search("anything")} == {"b.jpg", "c%20d.jpg"}


def test_single_files_are_indexed_with_descriptions_by_path_or_name(
    local: Open, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    engine = local()
    paths = ["photos/a.jpg", photos / "b.jpg", "photos/deep/c d.jpg"]
    descriptions = {"photos/a.jpg": "a red car", "b.jpg": "a boat", "c.jpg": "nothing here"}
    result = engine.index_images(paths, descriptions=descriptions)
    assert (result.indexed, result.unmatched) == (3, ("c.jpg",))
    found = engine.search_batch(["a red car", "a boat"], top_k=1, target="caption")
    assert [Path(each.hits[0].uri).name for each in found] == ["a.jpg", "b.jpg"]
    assert found[0].hits[0].payload["sources"] == [canonical_uri(str(photos / "a.jpg"))]


def test_an_additional_source_is_recorded_without_encoding_again(local: Open, photos: Path, tmp_path: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    assert engine.index_directory(photos / "deep").unchanged == 1
    engine.close()
    sources = stored(tmp_path / "data")["c%20d.jpg"].payload["sources"]
    assert sources == [canonical_uri(str(photos)), canonical_uri(str(photos / "deep"))]


def test_a_description_by_an_ambiguous_file_name_matches_no_file(local: Open, photos: Path) -> None:
    fill(photos, ["deep/a.jpg"])
    result = local().index_images([photos / "a.jpg", photos / "deep/a.jpg"], {"a.jpg": "ambiguous"})
    assert result.unmatched == ("a.jpg",)


@pytest.mark.parametrize("call", ["index_directory", "index_images"])
def test_a_missing_path_is_an_error_with_similar_names(local: Open, photos: Path, call: str) -> None:
    wrong = photos.parent / "fotos"
    engine = local()
    with pytest.raises(SourceError, match="fotos"):
        getattr(engine, call)(wrong if call == "index_directory" else [photos / "a.jpg", wrong])
    with pytest.raises(CollectionMissingError):  # nothing was created
        engine.get_stats()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("search", "a cat"), CollectionMissingError),
        (("search", ""), ConfigurationError),
        (("search", "a cat", 0), ConfigurationError),
        (("search", "a cat", 201), ConfigurationError),
        (("search",), ConfigurationError),
        (("index_images", []), SourceError),
    ],
)
def test_invalid_calls_raise_their_error(local: Open, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    name, *rest = arguments
    with pytest.raises(error):
        getattr(local(), name)(*rest)


def test_an_empty_directory_and_an_invalid_description_are_refused(local: Open, photos: Path) -> None:
    engine = local()
    empty = photos / "empty"
    empty.mkdir()
    with pytest.raises(SourceError, match="no files"):
        engine.index_directory(empty)
    (empty / "only.txt").touch()
    with pytest.raises(SourceError, match="could be an image"):
        engine.index_directory(empty)
    with pytest.raises(ConfigurationError, match=r"description of 'a\.jpg'"):
        engine.index_directory(photos, descriptions={"a.jpg": None})  # type: ignore[dict-item]  # a mistake of a user


def test_another_model_is_refused_and_the_default_is_the_model_of_the_index(
    local: Open, photos: Path, tiny_model: str, other_model: str
) -> None:
    engine = local()
    engine.index_directory(photos)
    engine.close()
    other = local(model_name=other_model)
    for call in (lambda: other.search("a cat"), lambda: other.index_directory(photos)):
        with pytest.raises(ModelMismatchError, match=re.escape(tiny_model)):
            call()
    other.close()
    assert local(model_name=None).search("a cat").model == tiny_model


def test_an_unknown_model_or_mode_is_refused_at_construction(local: Open) -> None:
    with pytest.raises(UnknownModelError, match="Closest known: 'ViT-B-32::openai'"):
        local(model_name="ViT-B-32::openia")
    with pytest.raises(ConfigurationError, match="'service' or 'local'"):
        ImageSearchEngine(mode="cloud")  # type: ignore[arg-type]  # a mistake of a user
    with pytest.raises(ConfigurationError, match="mode='local'"):
        ImageSearchEngine(model_name="demo")


def test_closing_an_engine_releases_the_store(local: Open, tmp_path: Path) -> None:
    with local():
        assert (tmp_path / "data/qdrant/holder.json").exists()
    with local():
        pass
    assert not (tmp_path / "data/qdrant/holder.json").exists()


def test_a_closed_engine_says_so(local: Open, photos: Path) -> None:
    engine = local()
    engine.close()
    engine.close()
    for use in (
        engine.get_stats,
        engine.__enter__,
        lambda: engine.search("a cat"),
        lambda: engine.search_batch(["a cat"]),
        lambda: next(engine.search_pages("a cat")),
        lambda: engine.index_directory(photos),
    ):
        with pytest.raises(RuntimeError, match="This ImageSearchEngine is closed"):
            use()


def test_two_engines_share_one_local_index(local: Open, photos: Path) -> None:
    first, second = local(), local()
    assert second.index_directory(photos).indexed == first.get_stats().points
    assert [hit.id for hit in first.search("a cat").hits] == [hit.id for hit in second.search("a cat").hits]
    first.close()
    assert second.search("a cat").hits


def test_a_taken_down_image_is_not_indexed_again(local: Open, photos: Path, tmp_path: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    engine.close()
    uri = canonical_uri(str(photos / "b.jpg"))
    with open_local(StoreAddress(data_dir=tmp_path / "data")) as store:
        store.take_down("images", {point_id(uri): uri})
    engine = local()
    for index in (lambda: engine.index_directory(photos), lambda: engine.index_images([photos / "b.jpg"])):
        result = index()
        assert (result.skips["taken_down"], result.indexed, result.failed) == (1, 0, 0)
        assert result.unchanged + result.skipped == result.listed
    assert uri not in {hit.uri for hit in engine.search("a red car")}
