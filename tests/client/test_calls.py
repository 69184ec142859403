"""Every call of the clients against the real application: images in files, keys, takedowns."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.services import ADMIN_KEY, READ_KEY, Gallery
from viewfinder import AsyncClient, Client, NewImage, Part
from viewfinder.client import SearchResult
from viewfinder.errors import BatchError, ConfigurationError, ServiceError
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

Ask = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(gallery, method, ...)` with a client of either kind; iterators are returned as lists."""

    def ask(gallery: Gallery, method: str, *arguments: Any, api_key: str | None = None, **options: Any) -> Any:
        async def in_a_loop() -> Any:
            async with AsyncClient(gallery.url, api_key=api_key) as client:
                answer = getattr(client, method)(*arguments, **options)
                return [each async for each in answer] if method == "search_pages" else await answer

        if request.param == "asyncio":
            return asyncio.run(in_a_loop())
        with Client(gallery.url, api_key=api_key) as client:
            answer = getattr(client, method)(*arguments, **options)
            return list(answer) if method == "search_pages" else answer

    return ask


# Searches


@pytest.mark.parametrize("how", [str, Path, lambda path: path.read_bytes()], ids=["text", "path", "bytes"])
def test_an_image_finds_itself_first(gallery: Gallery, ask: Ask, how: Callable[[Path], Any]) -> None:
    result = ask(gallery, "search", image=how(gallery.files[5]), limit=3)
    assert len(result) == 3
    assert result.hits[0].uri == gallery.uris[5]
    assert result.hits[0].score == pytest.approx(1, abs=1e-4)
    assert result.hits[0].relevance == 1


@pytest.mark.parametrize("subject", [lambda uri: uri, point_id], ids=["uri", "id"])
def test_an_image_of_the_index_finds_similar_images_but_not_itself(
    gallery: Gallery, ask: Ask, subject: Callable[[str], str]
) -> None:
    result = ask(gallery, "search", id=subject(gallery.uris[5]), limit=30)
    assert {hit.uri for hit in result} == {*gallery.uris} - {gallery.uris[5]}


@pytest.mark.parametrize("kind", [list, tuple, np.array, iter], ids=["list", "tuple", "array", "iterator"])
def test_a_vector_can_be_any_sequence(gallery: Gallery, ask: Ask, kind: Callable[[Any], Any]) -> None:
    vector = gallery.encoder.encode_texts(["image 7"])[0][0]
    result = ask(gallery, "search", vector=kind(vector), target="caption", limit=1)
    assert result.hits[0].caption == "image 7"


def test_parts_are_combined_by_weight(gallery: Gallery, ask: Ask) -> None:
    parts = [Part(text="image 7"), Part(text="image 8", weight=-0.5), Part(image=gallery.files[3], weight=0.1)]
    texts = gallery.encoder.encode_texts(["image 7", "image 8"])[0]
    image = np.array([embedding.vector for embedding in ask(gallery, "embed", images=[gallery.files[3]]).images])[0]
    result = ask(gallery, "search", queries=parts, target="caption", limit=1)
    vector = texts[0] - 0.5 * texts[1] + 0.1 * image
    expected = ask(gallery, "search", vector=vector, target="caption", limit=1)
    assert result.hits[0].id == expected.hits[0].id
    assert result.hits[0].score == pytest.approx(expected.hits[0].score, abs=1e-4)
    assert result.hits[0].relevance is None


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"filter": {"tags": {"eq": "odd"}}}, 12),
        ({"rank": "words", "filter": {"caption": {"text": "17"}}}, 1),
        ({"rank": "hybrid", "weights": {"words": 2}, "limit": 5}, 5),
        ({"diversity": 0.5, "limit": 4}, 4),
        ({"score_threshold": 0.99999, "target": "caption"}, 1),
        ({"offset": 20, "limit": None}, 4),
    ],
)
def test_every_option_reaches_the_service(gallery: Gallery, ask: Ask, options: dict[str, Any], count: int) -> None:
    assert len(ask(gallery, "search", "image 17", **{"limit": 200, **options})) == count


def test_rank_words_orders_by_caption_words(gallery: Gallery, ask: Ask) -> None:
    result = ask(gallery, "search", "17", rank="words", limit=1)
    assert [(hit.caption, hit.relevance) for hit in result] == [("image 17", None)]


def test_groups_share_a_value(gallery: Gallery, ask: Ask) -> None:
    result = ask(gallery, "search", "image 7", target="caption", group_by="tags", group_size=2)
    assert [(group.value, len(group.hits)) for group in result.groups] == [("odd", 2), ("even", 2)]
    assert result.hits == tuple(group.hits[0] for group in result.groups)


def test_similar_images_are_one_hit_that_lists_the_others(gallery: Gallery, ask: Ask) -> None:
    plain = {hit.id: hit.uri for hit in ask(gallery, "search", "image 7", limit=200)}
    result = ask(gallery, "search", "image 7", collapse="near", collapse_threshold=0.0, limit=200)
    assert sum(1 + hit.collapsed for hit in result) == len(plain)
    first = result.hits[0]
    assert 0 < len(first.similar) == min(10, first.collapsed)
    assert all(each.uri == plain[each.id] and each.cosine >= 0 for each in first.similar)


def test_pages_hold_every_image_once_in_the_order_of_one_search(gallery: Gallery, ask: Ask) -> None:
    pages = ask(gallery, "search_pages", "image 7", limit=10)
    assert [len(page) for page in pages] == [10, 10, 4]
    whole = ask(gallery, "search", "image 7", limit=200)
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in whole]
    assert pages[-1].cursor is None


def test_a_batch_of_any_size_is_answered_in_its_order(gallery: Gallery, ask: Ask) -> None:
    searches = [f"image {number % 24}" for number in range(130)]
    results = ask(gallery, "search_batch", searches, target="caption", limit=1)
    assert [result.hits[0].caption for result in results] == searches


def test_searches_of_a_batch_may_differ(gallery: Gallery, ask: Ask) -> None:
    searches = ["image 2", {"image": gallery.files[4], "limit": 2}, {"id": gallery.uris[0], "target": "caption"}]
    results = ask(gallery, "search_batch", searches, limit=3)
    assert [len(result) for result in results] == [3, 2, 3]
    assert results[1].hits[0].uri == gallery.uris[4]


# Vectors and probabilities


def test_texts_and_images_are_embedded(gallery: Gallery, ask: Ask) -> None:
    texts = [f"image {number}" for number in range(70)] + ["cat " * 200]
    answer = ask(gallery, "embed", texts, [gallery.files[0], gallery.files[1].read_bytes()])
    assert [len(answer.texts), len(answer.images), answer.dimension] == [71, 2, 32]
    expected = gallery.encoder.encode_texts(texts)[0]
    np.testing.assert_allclose([each.vector for each in answer.texts], expected, atol=1e-5)
    assert (answer.texts[0].cut, answer.texts[-1].cut > 0) == (0, True)
    assert answer.fingerprint == gallery.encoder.fingerprint
    assert any("Numbers start after text 64" in warning for warning in answer.warnings)
    own = ask(gallery, "search", vector=answer.images[1].vector, limit=1)
    assert own.hits[0].uri == gallery.uris[1]


@pytest.mark.parametrize(
    ("given", "texts"),
    [({"image": 0, "texts": ["a cat", "a dog", "a car"]}, True), ({"text": "a cat", "images": [0, 1, 2]}, False)],
)
def test_candidates_are_ranked_by_probability(gallery: Gallery, ask: Ask, given: dict[str, Any], texts: bool) -> None:
    named = {name: gallery.files[value] if value == 0 else value for name, value in given.items()}
    if "images" in named:
        named["images"] = [gallery.files[number] for number in given["images"]]
    ranking = ask(gallery, "rank", **named)
    probabilities = [candidate.probability for candidate in ranking]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sorted(candidate.index for candidate in ranking) == [0, 1, 2]
    assert all((candidate.text is not None) == texts for candidate in ranking)


def test_images_of_the_index_are_ranked_as_their_files(gallery: Gallery, ask: Ask) -> None:
    texts = ["a cat", "a dog"]
    of_file, of_uri = (
        ask(gallery, "rank", texts=texts, **each) for each in ({"image": gallery.files[1]}, {"id": gallery.uris[1]})
    )
    assert [each.text for each in of_uri] == [each.text for each in of_file]
    assert [each.probability for each in of_uri] == pytest.approx([each.probability for each in of_file], abs=1e-3)
    mixed = ask(gallery, "rank", text="a cat", images=[gallery.files[0], Part(id=gallery.uris[1])])
    plain = ask(gallery, "rank", text="a cat", images=gallery.files[:2])
    assert {each.index: each.probability for each in mixed} == pytest.approx(
        {each.index: each.probability for each in plain}, abs=1e-3
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"image": b""},
        {"text": "a", "texts": ["b"]},
        {"image": b"", "images": [b""]},
        {"image": b"", "id": "s3://b/k", "texts": ["a"]},
        {"text": "a", "images": [Part(text="b")]},
        {"text": "a", "images": [Part(image=b"", weight=2)]},
    ],
)
def test_invalid_arguments_of_rank_are_refused(gallery: Gallery, ask: Ask, given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="rank"):
        ask(gallery, "rank", **given)


def test_embed_without_inputs_is_refused(gallery: Gallery, ask: Ask) -> None:
    with pytest.raises(ConfigurationError, match="Nothing to embed"):
        ask(gallery, "embed")


# Single images, facets, models


@pytest.mark.parametrize("subject", [lambda path: str(path), lambda path: path.as_uri()], ids=["path", "uri"])
def test_an_image_and_its_content_are_returned(gallery: Gallery, ask: Ask, subject: Callable[[Path], str]) -> None:
    file = gallery.files[2]
    image = ask(gallery, "image", subject(file))
    assert (image.id, image.uri, image.caption) == (point_id(gallery.uris[2]), gallery.uris[2], "image 2")
    assert image.payload["tags"] == ["even"]
    assert ask(gallery, "content", image.id) == file.read_bytes()
    with Image.open(io.BytesIO(ask(gallery, "content", image.id, width=16))) as small:
        assert small.width == 16


def test_values_of_a_field_are_counted(gallery: Gallery, ask: Ask) -> None:
    facets = ask(gallery, "facets", "tags", filter={"uri": {"ne": gallery.uris[0]}})
    assert {each.value: each.count for each in facets.values} == {"odd": 12, "even": 11}
    assert len(ask(gallery, "facets", "tags", limit=1).values) == 1


def test_models_name_the_live_one(gallery: Gallery, ask: Ask, tiny_model: str) -> None:
    models = ask(gallery, "models")
    assert models.live == tiny_model
    assert {"ViT-B-32::openai", tiny_model} <= {model.name for model in models.models}


@pytest.mark.parametrize("method", ["image", "content"])
def test_an_unknown_image_is_an_error(gallery: Gallery, ask: Ask, method: str) -> None:
    with pytest.raises(ServiceError) as raised:
        ask(gallery, method, "s3://nowhere/at-all.jpg")
    assert (raised.value.status, raised.value.code, raised.value.exit_status) == (404, "not_found", 2)


# Keys and takedowns


def test_a_missing_or_wrong_key_is_refused(locked: Gallery, ask: Ask) -> None:
    assert len(ask(locked, "search", "image 1", api_key=READ_KEY)) == 3
    for wrong in (None, "guessed"):
        with pytest.raises(ServiceError) as raised:
            ask(locked, "search", "image 1", api_key=wrong)
        assert (raised.value.status, raised.value.code) == (401, "unauthorized")


@pytest.mark.parametrize("method", ["take_down", "restore", "takedowns"])
def test_only_an_admin_key_allows_takedowns(locked: Gallery, ask: Ask, method: str) -> None:
    arguments = () if method == "takedowns" else (locked.uris[0],)
    with pytest.raises(ServiceError) as raised:
        ask(locked, method, *arguments, api_key=READ_KEY)
    assert (raised.value.status, raised.value.code) == (403, "forbidden")
    assert len(ask(locked, "search", "image 1", api_key=READ_KEY)) == 3


def test_an_image_is_taken_down_once_and_can_be_restored(locked: Gallery, ask: Ask) -> None:
    def admin(method: str, *arguments: str) -> Any:
        return ask(locked, method, *arguments, api_key=ADMIN_KEY)

    uri = locked.uris[1]
    removal = admin("take_down", uri)
    assert (removal.id, removal.uri, removal.removed) == (point_id(uri), uri, True)
    assert uri not in {hit.uri for hit in admin("search", "image 1")}
    assert admin("take_down", point_id(uri)).removed is False
    assert [(each.id, each.uri) for each in admin("takedowns")] == [(point_id(uri), uri)]
    assert admin("restore", uri).restored is True
    assert admin("restore", uri).restored is False
    assert admin("takedowns") == []


def test_images_are_indexed_and_found(locked: Gallery, ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "new.png"
    Image.new("RGB", (64, 48), "orange").save(file)
    new = NewImage(image=file, caption="an orange", tags=["fruit"], meta={"weight": 120})
    outside = f"{locked.uris[0]}.copy"
    for outcome in ("indexed", "unchanged"):
        found = ask(locked, "index_images", [new, outside], api_key=ADMIN_KEY)
        assert [(each.outcome, each.reason) for each in found] == [(outcome, None), ("failed", "outside_sources")]
    (hit,) = ask(locked, "search", filter={"meta.weight": {"gte": 100}}, api_key=ADMIN_KEY)
    assert (hit.id, hit.uri, hit.caption) == (found[0].id, found[0].uri, "an orange")
    assert ask(locked, "index_images", [], api_key=ADMIN_KEY) == []
    with pytest.raises(ServiceError) as raised:
        ask(locked, "index_images", [new], api_key=READ_KEY)
    assert (raised.value.status, raised.value.code) == (403, "forbidden")


@pytest.mark.parametrize("given", [{}, {"uri": "s3://b/a.jpg", "image": b"a"}])
def test_a_new_image_is_named_or_sent(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="either uri or image"):
        NewImage(**given)


def test_a_batch_with_a_refused_search_has_the_results_of_the_others(gallery: Gallery, ask: Ask) -> None:
    searches = ["image 2", {"text": "image 2", "limit": 0}, {"id": "s3://bucket/none.jpg"}]
    with pytest.raises(BatchError, match=r"^2 of 3 searches failed. searches\.1: limit: 0 is below") as raised:
        ask(gallery, "search_batch", searches, target="caption")
    found, first, last = raised.value.answers
    assert isinstance(found, SearchResult)
    assert found.hits[0].caption == "image 2"
    assert isinstance(first, ServiceError)
    assert isinstance(last, ServiceError)
    assert [(each.code, each.status) for each in (first, last)] == [("invalid_request", 422), ("not_found", 404)]
    assert "'s3://bucket/none.jpg'" in last.message


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("search", (), {"id": "s3://bucket/none.jpg"}),
        ("image", ("s3://bucket/none.jpg",), {}),
        ("content", ("s3://bucket/none.jpg",), {}),
    ],
)
def test_an_unknown_image_is_named_as_it_was_given(
    gallery: Gallery, ask: Ask, method: str, arguments: tuple[str, ...], options: dict[str, str]
) -> None:
    with pytest.raises(ServiceError, match=r"no image 's3://bucket/none\.jpg'"):
        ask(gallery, method, *arguments, **options)
