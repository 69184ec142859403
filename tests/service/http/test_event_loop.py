"""Large requests and answers do not keep the event loop from other requests."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import INDEX, World, load, open_world
from tests.service.http.searching import image
from tests.service.watched_loop import WatchedLoop, watching
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.service.http.guard import IMAGE_PATHS
from viewfinder.sources.uris import point_id
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}
POINTS = 2_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Checkpoint]) -> Iterator[World]:
    """A service with images that have much metadata."""
    directory = tmp_path_factory.mktemp("large")
    settings = {"uploads_uri": str(directory / "uploads"), "request_timeout_s": 600}
    with open_world(directory / "store", checkpoints, settings) as world:
        checkpoint = checkpoints["first"]
        collection = world.store.collections.create(INDEX, ModelIdentity.of(checkpoint))
        uris = [f"s3://bucket/{number}.jpg" for number in range(POINTS)]
        vectors = np.random.default_rng(0).normal(size=(POINTS, checkpoint.dimension)).astype(np.float32)
        meta = {f"field{number}": "a value of some length " * 2 for number in range(20)}
        payloads = [{"uri": uri, "width": number // 10, "meta": meta} for number, uri in enumerate(uris)]
        world.store.points.upsert(
            collection, PointBatch([point_id(uri) for uri in uris], payloads, image=vectors), wait=True
        )
        world.store.collections.promote(INDEX, collection.name)
        world.service.follower.refresh()
        load(checkpoint)
        world.client.post("/v1/search", json={"text": "a cat"})  # the first request of a process initializes the rest
        yield world


@pytest.fixture(autouse=True)
def loop_is_free() -> Iterator[None]:
    with watching():
        yield
    print(WatchedLoop.worst)


def post(world: World, path: str, body: bytes) -> Any:
    return world.client.post(path, content=body, headers=JSON)


LISTS = {
    "/v1/search": "queries",
    "/v1/search/batch": "searches",
    "/v1/embed": "texts",
    "/v1/embeddings": "input",
    "/v1/rank": "nonsense",
    "/v1/rerank": "documents",
    "/v1/facets": "nonsense",
    "/v1/thumbnails": "nonsense",
    "/v1/images": "images",
}


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("item", ["[]", '{"a":[]}', "1", '"\\""'])
def test_a_body_with_millions_of_values_is_refused(served: World, path: str, item: str) -> None:
    """Regression: 7.5 MB of `[[],[],...]` held the loop for 1.2 s."""
    count = (7_500_000 if path in IMAGE_PATHS else 1_900_000) // (len(item) + 1)
    answer = post(served, path, f'{{"text":"a cat","{LISTS[path]}":[{",".join([item] * count)}]}}'.encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_a_body_in_another_encoding_is_refused(served: World, coding: str) -> None:
    """Regression: 15 MB of lists in UTF-16, whose bytes are not those of brackets and commas, held the loop for 2 s."""
    text = '{"text":"∀","filter":{"a":[' + "[]," * 1_000_000 + "[]]}}"
    answer = post(served, "/v1/search", text.encode(coding))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_a_byte_order_mark_is_accepted(served: World) -> None:
    assert post(served, "/v1/search", b'\xef\xbb\xbf{"text":"a cat"}').status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/search", {"vector": ["a"] * 8190}),
        ("/v1/search", {"queries": [{"vector": ["a"] * 8190}] * 16}),
        ("/v1/search/batch", {"searches": [{"vector": ["a"] * 8000}] * 36}),
        ("/v1/thumbnails", {"ids": ["a"] * 200_000}),
        ("/v1/facets", {f"field{number}": 1 for number in range(19_000)}),
        ("/v1/thumbnails", {f"field{number}": 1 for number in range(19_000)}),
        ("/v1/embed", {"texts": [1] * 250_000, "images": [1] * 49_000}),
        ("/v1/rank", {"texts": [1] * 250_000, "text": 1}),
        ("/v1/embeddings", {"input": [None] * 200_000}),
        ("/v1/embeddings", {"input": [{"text": ""}] * 9_000}),
        ("/v1/embeddings", {"messages": [{"role": 1}] * 9_000}),
        ("/v1/rerank", {"query": "a", "documents": [{"id": "b"}] * 9_000}),
        ("/v1/images", {"images": [{}] * 9_000}),
        ("/v1/images", {"images": [{"uri": 1, "tags": [1] * 1_000, "meta": 1}] * 64}),
    ],
    ids=lambda each: each if isinstance(each, str) else "-".join(list(each)[:2]),
)
def test_thousands_of_invalid_values_give_a_short_message(served: World, path: str, body: dict[str, Any]) -> None:
    """Regression: each was described before the message was cut: a batch of 36 such vectors held the loop for 6.7 s."""
    answer = post(served, path, json.dumps(body, separators=(",", ":")).encode())
    errors = [each["error"] for each in answer.json().get("results", [answer.json()])]
    assert {each["code"] for each in errors} == {"invalid_request"}
    assert all(len(each["message"]) < 1_000 for each in errors)


def test_the_options_of_an_upload_are_limited_like_a_body(served: World) -> None:
    """Regression: 1 MB of lists in a form's field held the loop for 0.4 s."""
    lists = '{"filter":{"a":[' + "[]," * 330_000 + "[]]}}"
    answer = served.client.post("/v1/search/image", files={"image": ("a.png", image())}, data={"options": lists})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("content", ["A", "é", "\\u00e9", ",", 'é\\"'])
@pytest.mark.parametrize("place", ["image", "text", "nonsense"])
def test_a_long_string_in_a_wrong_field_is_refused(served: World, content: str, place: str) -> None:
    text = content * (29_000_000 // len(content.encode()))
    answer = post(served, "/v1/search", f'{{"{place}":"{text}"}}'.encode())
    assert answer.status_code in (400, 413, 422)


def test_text_may_hold_any_number_of_brackets_and_commas(served: World) -> None:
    """A text is a text: only the structure around it is limited."""
    texts = ["[]{},:" * 600 + '\\"[' for _ in range(60)]
    answer = post(served, "/v1/search/batch", json.dumps({"searches": [{"text": text} for text in texts]}).encode())
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 60


@pytest.fixture(scope="module")
def photographs() -> list[str]:
    """Four images of 12 megapixels in base64."""
    made = []
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(0, 256, (75, 100, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((4000, 3000)).save(file, "JPEG", quality=80)
        made.append(base64.b64encode(file.getvalue()).decode())
    return made


def test_uploads_are_indexed(served: World, photographs: list[str]) -> None:
    answer = served.client.post("/v1/images", json={"images": [{"image": each} for each in photographs]})
    assert answer.json().get("indexed") == len(photographs), answer.text[:1000]


def test_64_uploads_are_indexed(served: World) -> None:
    colours = [image(f"rgb({number},0,0)") for number in range(64)]
    images = [{"image": base64.b64encode(each).decode(), "caption": "a colour"} for each in colours]
    answer = served.client.post("/v1/images", json={"images": images})
    assert answer.json().get("indexed") == 64, answer.text[:1000]


def test_64_broken_uploads_and_unknown_objects_are_refused_one_by_one(served: World) -> None:
    broken = [{"image": base64.b64encode(b"\xff\xd8\xff" + bytes(200_000)).decode()}] * 32
    unknown = [{"uri": f"s3://nowhere/{'é' * 4_000}{number}.jpg"} for number in range(32)]
    answer = served.client.post("/v1/images", json={"images": [*broken, *unknown]})
    assert answer.json().get("failed") == 64, answer.text[:1000]


def test_the_largest_captions_are_checked(served: World) -> None:
    tags = [f"tag {number} é" * 20 for number in range(1_000)]
    meta = {f"field{number}": ["a value"] * 20 for number in range(500)}
    one = {"uri": "s3://nowhere/a.jpg", "caption": "a word é " * 50_000, "tags": tags, "meta": meta}
    answer = served.client.post("/v1/images", json={"images": [one] * 4})
    assert answer.status_code == 200, answer.text[:1000]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/embed", "/v1/search"])
def test_photographs_are_decoded_elsewhere(served: World, photographs: list[str], path: str) -> None:
    images = [{"image": each} for each in photographs]
    bodies = {
        "/v1/rerank": {"query": "a cat", "documents": images},
        "/v1/embed": {"images": photographs},
        "/v1/search": {"queries": images},
    }
    assert served.client.post(path, json=bodies[path]).status_code == 200


def test_indexed_images_are_ranked(served: World) -> None:
    documents = [{"id": point_id(f"s3://bucket/{number}.jpg")} for number in range(POINTS)]
    answer = served.client.post("/v1/rerank", json={"query": "a cat", "documents": documents, "return_documents": True})
    assert len(answer.json()["results"]) == POINTS


@pytest.mark.parametrize(
    "options",
    [
        {"text": "a cat", "collapse": "near", "collapse_threshold": 0.5},
        {"text": "a cat", "collapse": "exact"},
        {"order_by": "-width", "collapse": "near"},
        {"order_by": "-width", "offset": 1_500},
        {"text": "a cat", "score_threshold": -1, "order_by": "-width"},
        {"text": "a cat", "diversity": 1},
    ],
    ids=str,
)
def test_a_thousand_hits_are_ordered(served: World, options: dict[str, Any]) -> None:
    answer = served.client.post("/v1/search", json={**options, "limit": 200})
    assert answer.status_code == 200
    assert answer.json()["hits"]


def test_256_vectors_of_1152_numbers_are_parsed(served: World) -> None:
    vector = np.random.default_rng(0).normal(size=1152).tolist()
    searches = [{"queries": [{"vector": vector, "weight": 1} for _ in range(4)]} for _ in range(64)]
    answer = post(served, "/v1/search/batch", json.dumps({"searches": searches}).encode())
    assert answer.status_code in (200, 422), "its dimension is not that of the model"
    assert answer.json().get("error", {}).get("code") != "body_too_large"


def test_an_image_of_the_largest_size_is_read(served: World) -> None:
    answer = post(served, "/v1/search", b'{"image":"' + b"A" * 27_000_000 + b'"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image")


@pytest.mark.parametrize("options", [{"limit": 200}, {"limit": 200, "group_by": "width", "group_size": 10}], ids=str)
def test_the_largest_answer_of_one_search_is_sent(served: World, options: dict[str, Any]) -> None:
    answer = served.client.post("/v1/search", json={"text": "a cat", **options})
    assert answer.status_code == 200
    assert len(answer.json()["hits"]) or len(answer.json()["groups"])


def test_the_largest_batch_is_answered(served: World) -> None:
    searches = [{"text": f"cat {number}", "limit": 31} for number in range(64)]
    answer = served.client.post("/v1/search/batch", json={"searches": searches})
    assert answer.status_code == 200
    assert sum(len(each["hits"]) for each in answer.json()["results"]) == 64 * 31


@pytest.mark.parametrize(
    "searches",
    [
        [{"text": "a cat", "limit": 200}] * 11,
        [{"text": "a cat", "limit": 200, "group_by": "width", "group_size": 10}] * 2,
        [{"text": "a cat", "limit": 11, "group_by": "width"}] * 64,
    ],
    ids=["hits", "groups", "the default size of groups"],
)
def test_a_batch_with_more_hits_is_refused(served: World, searches: list[dict[str, Any]]) -> None:
    """Regression: 64 searches of 200 hits with groups took 7 s and 123 MB."""
    answer = served.client.post("/v1/search/batch", json={"searches": searches})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert "2000 hits" in answer.json()["error"]["message"]


def test_the_vectors_of_64_texts_are_sent(served: World) -> None:
    answer = served.client.post("/v1/embed", json={"texts": [f"text {number}" for number in range(64)]})
    assert len(answer.json()["texts"]) == 64


def test_the_vectors_of_2048_texts(served: World) -> None:
    texts = [f"text {number}" for number in range(2_048)]
    answer = served.client.post("/v1/embeddings", json={"input": texts})
    assert len(answer.json()["data"]) == 2_048


def test_2048_long_texts_without_a_visible_character(served: World) -> None:
    """Each takes a millisecond to check, in a thread."""
    answer = served.client.post("/v1/embeddings", json={"input": ["a cat"] * 64 + ["\u200b" * 2_000] * 1_984})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input.64")


@pytest.mark.full
def test_2048_long_documents_are_ranked_and_returned(served: World) -> None:
    documents = [f"document {number} " + "ab 猫 " * 200 for number in range(2_048)]
    body = {"query": "a cat", "documents": documents, "return_documents": True}
    answer = served.client.post("/v1/rerank", json=body)
    assert len(answer.json()["results"]) == 2_048


@pytest.mark.full
def test_a_batch_of_searches_that_order_a_thousand_hits_each(served: World) -> None:
    one = {"text": "a cat", "score_threshold": -1, "order_by": "-width", "limit": 31}
    answer = served.client.post("/v1/search/batch", json={"searches": [one] * 64})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert all(each["truncated"] and len(each["hits"]) == 31 for each in results)
