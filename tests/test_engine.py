"""The engine: local mode in this process, and service mode with a running service."""

import asyncio
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.fixtures.services import CAPTIONS, READ_KEY, Gallery, Running
from tests.indexing.sample_images import encoded_image, fill
from viewfinder import ImageSearchEngine, print_results
from viewfinder.client import Group, Hit, Part, SearchResult
from viewfinder.errors import (
    CollectionMissingError,
    ConfigurationError,
    ModelMismatchError,
    ServiceError,
    SourceError,
    UnknownModelError,
)
from viewfinder.query.errors import QueryError
from viewfinder.settings import Settings
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store import Record, StoreAddress, open_local

pytestmark = pytest.mark.slow

NAMES = ["a.jpg", "b.jpg", "deep/c d.jpg"]

Open = Callable[..., ImageSearchEngine]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    directory = tmp_path / "photos"
    fill(directory, NAMES)
    (directory / "notes.txt").write_text("not an image")
    return directory


@pytest.fixture
def local(tmp_path: Path, tiny_model: str) -> Iterator[Open]:
    """Return a function that opens engines on one data directory; close them all after the test."""
    opened: list[ImageSearchEngine] = []

    def open_(**options: Any) -> ImageSearchEngine:
        options = {"model_name": tiny_model, "data_dir": tmp_path / "data", **options}
        opened.append(ImageSearchEngine(mode="local", **options))
        return opened[-1]

    yield open_
    for engine in opened:
        engine.close()


def stored(data_dir: Path) -> dict[str, Record]:
    """Return all points by file name."""
    with open_local(StoreAddress(data_dir=data_dir)) as store:
        live = store.collections.live("images")
        assert live is not None
        return {record.payload["uri"].rpartition("/")[2]: record for record in store.points.iterate(live)}


# In this process


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

    stats = engine.get_stats()
    assert (stats.points, stats.model, stats.index, stats.collection) == (3, tiny_model, "images", result.collection)


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
        engine.index_directory(photos, descriptions={"a.jpg": None})  # type: ignore[dict-item]


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
        ImageSearchEngine(mode="cloud")  # type: ignore[arg-type]
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


@pytest.mark.parametrize("how", [str, Path.read_bytes], ids=["path", "bytes"])
def test_an_image_is_its_own_best_hit(local: Open, photos: Path, how: Callable[[Path], Any]) -> None:
    engine = local()
    engine.index_directory(photos)
    found = engine.search(image=how(photos / "b.jpg"), top_k=2)
    assert [len(found), Path(found.hits[0].uri).name] == [2, "b.jpg"]
    assert found.hits[0].score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("image", ["missing.jpg", b"not an image"])
def test_an_invalid_query_image_is_refused(local: Open, photos: Path, image: str | bytes) -> None:
    engine = local()
    engine.index_directory(photos)
    with pytest.raises(ConfigurationError, match="image"):
        engine.search(image=image)


def test_a_search_takes_exactly_one_query_and_a_valid_limit(local: Open, photos: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    with pytest.raises(QueryError, match=r"exactly one of .*, not text and image"):
        engine.search("a cat", image=photos / "b.jpg")
    with pytest.raises(QueryError, match="limit"):
        engine.search("a cat", top_k=201)


def test_local_mode_supports_the_search_options_of_the_api(local: Open, photos: Path) -> None:
    engine = local()
    descriptions = {"a.jpg": "a red car", "b.jpg": "two birds", "deep/c d.jpg": "two red birds"}
    engine.index_directory(photos, descriptions=descriptions)
    by_words = engine.search("birds", rank="words")
    assert {hit.caption for hit in by_words} == {"two birds", "two red birds"}
    parts = [Part(text="a red car"), Part(image=photos / "b.jpg", weight=0.5)]
    grouped = engine.search(queries=parts, target="both", group_by="kind", filter={"width": {"gte": 1}}, limit=2)
    assert grouped.groups is not None
    assert [len(group.hits) for group in grouped.groups] == [3]
    pages = list(engine.search_pages("two birds", 2, target="caption"))
    assert [len(page) for page in pages] == [2, 1]
    assert len({hit.id for page in pages for hit in page}) == 3
    batch = engine.search_batch(["a red car", {"image": photos / "b.jpg", "limit": 1}], 2)
    assert [len(result) for result in batch] == [2, 1]


def test_local_mode_works_inside_a_running_event_loop(local: Open, photos: Path) -> None:
    engine = local()
    engine.index_directory(photos)

    async def notebook() -> int:
        return len(engine.search("a red car"))

    assert asyncio.run(notebook()) == 3


def test_hits_have_a_relevance_once_the_index_is_large_enough(local: Open, photos: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    assert {hit.relevance for hit in engine.search("a red car")} == {None}  # three images are not enough for baselines
    fill(photos, [f"{number}.jpg" for number in range(30)], first_seed=10)
    engine.index_directory(photos)
    assert engine.get_stats().relevance
    relevances = [hit.relevance for hit in engine.search("a red car", top_k=40)]
    assert relevances == sorted(relevances, reverse=True)
    assert all(each is not None and 0 <= each <= 1 for each in relevances)
    assert engine.search(image=photos / "5.jpg").hits[0].relevance == 1


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


# Through a service


def test_the_same_calls_work_with_a_service(running: Running) -> None:
    with ImageSearchEngine(mode="service", server=running.url) as engine:
        assert engine.search("a red car", top_k=1).hits[0].caption == "a red car"
        assert len(engine.search("a red car")) == 5
        batch = engine.search_batch(CAPTIONS, top_k=3)
        assert [result.hits[0].caption for result in batch] == list(CAPTIONS)
        assert {len(result) for result in batch} == {3}
        assert engine.get_stats().collection == running.collection


def test_a_service_is_searched_by_image_with_the_api_key_of_the_settings(
    locked: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", locked.url)
    with ImageSearchEngine() as engine, pytest.raises(ServiceError, match="unauthorized"):
        engine.search("a cat")
    monkeypatch.setenv("VIEWFINDER_API_KEY", READ_KEY)
    with ImageSearchEngine() as engine:
        assert engine.search(image=locked.files[1], top_k=1).hits[0].uri == locked.uris[1]


def test_without_an_address_the_service_of_this_machine_is_used(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: the command line found the service at VIEWFINDER_PORT, the engine asked port 8000.
    monkeypatch.delenv("VIEWFINDER_SERVER", raising=False)
    monkeypatch.setenv("VIEWFINDER_PORT", running.url.rpartition(":")[2])
    with ImageSearchEngine() as engine:
        assert engine.get_stats().collection == running.collection


def test_indexing_through_a_service_names_the_command(tmp_path: Path) -> None:
    with ImageSearchEngine() as engine:
        with pytest.raises(ConfigurationError) as raised:
            engine.index_directory("s3://bucket/my photos", descriptions={"a.jpg": "a cat"})
        command = "viewfinder index 's3://bucket/my photos' --captions captions.json"
        assert command in str(raised.value).splitlines()[1]
        with pytest.raises(ConfigurationError, match=f"viewfinder index {re.escape(str(tmp_path))}/a.jpg s3://b/c"):
            engine.index_images([tmp_path / "a.jpg", "s3://b/c"])
        with pytest.raises(ConfigurationError, match=r"index images\.csv\nimages\.csv is .* your 1,000 paths"):
            engine.index_images([f"{number}.jpg" for number in range(1000)])


# The table


def test_results_are_printed_without_interpreting_markup(running: Running) -> None:
    with ImageSearchEngine(server=running.url) as engine:
        result = engine.search("a red car", top_k=1)
    odd = Hit(id="1", score=0.5, relevance=0.129, uri="s3://b/[red].jpg", caption="[/oops] a cat", payload={})
    found: dict[str, Any] = {"model": "m", "collection": "c", "took_ms": 1.0}
    results = [
        SearchResult(hits=(*result.hits, odd), warnings=("The text is too [long].",), **found),
        SearchResult(hits=(odd,), groups=(Group(value="[b]", hits=(odd,)),), **found),
        SearchResult(hits=(), **found),
    ]
    output, errors = io.StringIO(), io.StringIO()
    print_results(results, Console(file=output, width=200), Console(file=errors, width=40))
    text = output.getvalue()
    for expected in (
        "1.000",
        "a red car",
        "300 x 50",
        "12%",
        "s3://b/[red].jpg",
        "[/oops] a cat",
        "[b]",
        "Nothing found",
    ):
        assert expected in text
    assert errors.getvalue() == "warning: The text is too [long].\n"
    assert "too [long]" not in text


def test_settings_are_the_defaults_of_arguments(
    photos: Path, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_MODEL", tiny_model)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("VIEWFINDER_INDEX", "dogs")
    monkeypatch.setenv("VIEWFINDER_MAX_IMAGE_PIXELS", "4096")
    assert Settings.load().index == "dogs"
    (photos / "large.jpg").write_bytes(encoded_image(7, (100, 100)))
    with ImageSearchEngine(mode="local") as engine:
        result = engine.index_directory(photos)
        assert [each.reason for each in result.failures] == ["too_many_pixels"]
        assert (engine.get_stats().index, engine.get_stats().model) == ("dogs", tiny_model)
    assert (tmp_path / "elsewhere/qdrant").is_dir()
