"""The engine with a running service, and what it prints."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.fixtures.services import CAPTIONS, INDEX, READ_KEY, Gallery, Running
from tests.indexing.sample_images import encoded_image
from viewfinder import ImageSearchEngine, print_results
from viewfinder.client import Group, Hit, SearchResult
from viewfinder.errors import (
    ConfigurationError,
    ServiceError,
)
from viewfinder.settings import Settings

pytestmark = pytest.mark.slow


def test_the_same_calls_work_with_a_service(running: Running) -> None:
    with ImageSearchEngine(mode="service", server=running.url) as engine:
        assert engine.search("a red car", top_k=1).hits[0].caption == "a red car"
        assert len(engine.search("a red car")) == 5
        batch = engine.search_batch(CAPTIONS, top_k=3)
        assert [result.hits[0].caption for result in batch] == list(CAPTIONS)
        assert {len(result) for result in batch} == {3}
        assert engine.get_stats().collection == running.collection


def test_the_index_of_a_service_can_be_named(running: Running) -> None:
    with ImageSearchEngine(server=running.url, index=INDEX) as engine:
        assert engine.search("a red car", top_k=1).collection == running.collection
        with pytest.raises(ServiceError, match="there is no index 'cats'"):
            engine.search("a red car", index="cats")
    with (
        ImageSearchEngine(server=running.url, index="cats") as engine,
        pytest.raises(ServiceError, match="there is no index 'cats'"),
    ):
        engine.get_stats()


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
