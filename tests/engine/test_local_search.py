"""The engine in this process: searches."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.photos import Open
from tests.indexing.sample_images import fill
from viewfinder.client import Part, SearchResult
from viewfinder.errors import BatchError, ConfigurationError
from viewfinder.query.errors import QueryError

pytestmark = pytest.mark.slow


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
    with pytest.raises(QueryError, match="a search of 'images', not of 'cats'"):
        engine.search("a cat", index="cats")
    assert len(engine.search("a cat", index="images")) > 0


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


def test_a_batch_with_a_refused_search_has_the_results_of_the_others(local: Open, photos: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    with pytest.raises(BatchError, match=r"2 of 3 searches failed\. searches\.0: text: ") as raised:
        engine.search_batch([" ", "a cat", {"id": "s3://bucket/none.jpg"}])
    first, found, last = raised.value.answers
    assert isinstance(found, SearchResult)
    assert found.hits
    assert isinstance(first, QueryError)
    assert "'s3://bucket/none.jpg'" in str(last)
    assert raised.value.exit_status == 2


def test_an_unknown_image_is_named_as_it_was_given(local: Open, photos: Path) -> None:
    engine = local()
    engine.index_directory(photos)
    with pytest.raises(QueryError, match=r"no image 's3://bucket/none\.jpg'"):
        engine.search(id="s3://bucket/none.jpg")
