"""`/v1/rerank`, as Cohere's and Jina's clients send it, and `/v1/rank` with indexed images."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import World
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

DOCUMENTS = ["a red car", "a cat on a mat", "a boat at sea", "a cat"]
IDS = [point_id(f"s3://bucket/{number}.jpg") for number in range(5)]


def image(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


COLOURS = ("red", "blue", "green")
IMAGES = [base64.b64encode(image(colour)).decode() for colour in COLOURS]


def post(world: World, body: Any, path: str = "/v1/rerank", status: int = 200) -> Any:
    answer = world.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def text_vectors(world: World, texts: list[str]) -> Any:
    return world.service.follower.snapshot().encoder.encode_texts(texts)[0].astype(np.float64)


def image_vectors(world: World) -> Any:
    encoder = world.service.follower.snapshot().encoder
    pixels = [decode(image(each), encoder.preprocess, ImageLimits(10**6, 10**6)).pixels for each in COLOURS]
    return encoder.encode_images(np.stack(pixels)).astype(np.float64)


def stored_vectors(world: World) -> Any:
    live = world.service.follower.snapshot().collection
    found = world.store.points.vectors(live, IDS)
    return np.stack([found[each] for each in IDS]).astype(np.float64)


def check_order(results: list[dict[str, Any]], expected: Any) -> None:
    assert [each["index"] for each in results] == np.argsort(-expected, kind="stable")[: len(results)].tolist()
    for each in results:
        assert each["relevance_score"] == pytest.approx(float(expected[each["index"]]), abs=1e-5)


def test_texts_are_ordered_by_their_cosine_with_the_query(shared: World) -> None:
    answer = post(shared, {"model": "viewfinder", "query": "a cat", "documents": DOCUMENTS})
    (query,) = text_vectors(shared, ["a cat"])
    check_order(answer["results"], text_vectors(shared, DOCUMENTS) @ query)
    assert (answer["results"][0]["index"], len(answer["results"])) == (3, len(DOCUMENTS))
    assert all(-1 <= each["relevance_score"] <= 1 for each in answer["results"])
    assert answer["results"][0].keys() == {"index", "relevance_score"}
    assert (answer["model"], answer["object"]) == (shared.checkpoints["first"].name, "list")
    tokens = sum(shared.service.follower.snapshot().encoder.count_tokens(["a cat", *DOCUMENTS]))
    assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] == tokens
    assert "warnings" not in answer or answer["warnings"] == []


def test_images_are_ordered_by_a_text_and_by_an_image(shared: World) -> None:
    documents = [{"image": each} for each in IMAGES]
    vectors = image_vectors(shared)
    (query,) = text_vectors(shared, ["a red car"])
    check_order(post(shared, {"query": "a red car", "documents": documents})["results"], vectors @ query)
    similar = post(shared, {"query": {"image": IMAGES[1]}, "documents": documents})["results"]
    check_order(similar, vectors @ vectors[1])
    assert similar[0]["index"] == 1


def test_indexed_images_are_named_by_id(shared: World) -> None:
    (query,) = text_vectors(shared, ["a cat"])
    documents = [{"id": each} for each in IDS]
    check_order(post(shared, {"query": "a cat", "documents": documents})["results"], stored_vectors(shared) @ query)
    similar = post(shared, {"query": {"id": IDS[2]}, "documents": documents})["results"]
    check_order(similar, stored_vectors(shared) @ stored_vectors(shared)[2])


def test_top_n_cuts_the_results(shared: World) -> None:
    for top_n, count in ((1, 1), (3, 3), (99, 4)):
        answer = post(shared, {"query": "a cat", "documents": DOCUMENTS, "top_n": top_n})
        assert [each["index"] for each in answer["results"]][:1] == [3]
        assert len(answer["results"]) == count


def test_documents_are_returned_without_the_content_of_images(shared: World) -> None:
    given = ["a cat", {"text": "a dog"}, {"image": IMAGES[0]}, {"id": IDS[0]}]
    answer = post(shared, {"query": "a cat", "documents": given, "return_documents": True})
    found = {each["index"]: each["document"] for each in answer["results"]}
    assert found == {0: {"text": "a cat"}, 1: {"text": "a dog"}, 2: {}, 3: {"id": IDS[0]}}


def test_texts_and_images_together_get_a_warning(shared: World) -> None:
    answer = post(shared, {"query": "a cat", "documents": ["a cat", {"image": IMAGES[0]}]})
    assert "rank them separately" in answer["warnings"][0]


def test_equal_documents_keep_their_order(shared: World) -> None:
    answer = post(shared, {"query": "a cat", "documents": ["a dog", "a cat"] * 50})
    found = [each["index"] for each in answer["results"]]
    assert found == [*range(1, 100, 2), *range(0, 100, 2)]


@pytest.mark.full
def test_2048_documents_are_ranked(shared: World) -> None:
    documents = [f"cat number {number % 50}" for number in range(2_047)] + ["a cat"]
    answer = post(shared, {"query": "a cat", "documents": documents, "return_documents": True})
    assert len(answer["results"]) == 2_048
    assert answer["results"][0]["index"] == 2_047
    assert all(each["document"]["text"] == documents[each["index"]] for each in answer["results"])


def test_the_second_version_of_coheres_path_is_the_same(shared: World) -> None:
    body = {"query": "a cat", "documents": DOCUMENTS, "max_tokens_per_doc": 4096}
    answers = [post(shared, body, f"/v{version}/rerank")["results"] for version in (1, 2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"query": "a cat", "documents": []}, 400, "invalid_request", "documents"),
        ({"query": "a cat"}, 400, "invalid_request", "documents"),
        ({"documents": ["a cat"]}, 400, "invalid_request", "query"),
        ({"query": " ", "documents": ["a cat"]}, 400, "invalid_request", "query"),
        ({"query": "a cat", "documents": ["a cat", ""]}, 400, "invalid_request", "documents.1.text"),
        ({"query": "a cat", "documents": ["a cat", "\u200b"]}, 400, "invalid_request", "documents.1"),
        ({"query": "a cat", "documents": "a cat"}, 400, "invalid_request", "documents"),
        ({"query": "a cat", "documents": [{"text": "a", "image": "b"}]}, 400, "invalid_request", "documents.0"),
        ({"query": "a cat", "documents": ["a"], "top_n": 0}, 400, "invalid_request", "top_n"),
        ({"query": "a cat", "documents": ["a"] * 2_049}, 400, "invalid_request", "documents"),
        ({"query": "a cat", "documents": [{"image": IMAGES[0]}] * 65}, 400, "invalid_request", "documents"),
        ({"query": "a cat", "documents": [{"image": "no base64"}]}, 400, "invalid_image", "documents.0"),
        ({"query": {"image": "https://a.org/b.jpg"}, "documents": ["a"]}, 400, "image_url_disabled", "query"),
        ({"query": "a", "documents": [{"id": point_id("s3://bucket/9.jpg")}]}, 404, "not_found", "documents.0"),
        ({"query": "a cat", "documents": ["a"], "model": "rerank-v3.5"}, 404, "model_not_found", "model"),
    ],
    ids=lambda each: str(each)[:60],
)
def test_an_invalid_request_names_the_field(shared: World, body: Any, status: int, code: str, param: str) -> None:
    error = post(shared, body, status=status)["error"]
    assert (error["code"], error["param"]) == (code, param)


class TestRank:
    """`/v1/rank` with indexed images."""

    def test_texts_are_ranked_by_an_indexed_image(self, shared: World) -> None:
        answer = post(shared, {"id": IDS[1].upper(), "texts": DOCUMENTS}, "/v1/rank")
        expected = text_vectors(shared, DOCUMENTS) @ stored_vectors(shared)[1]
        for each in answer["candidates"]:
            assert each["score"] == pytest.approx(float(expected[each["index"]]), abs=1e-5)
        assert sum(each["probability"] for each in answer["candidates"]) == pytest.approx(1)

    def test_indexed_and_sent_images_are_ranked_by_a_text(self, shared: World) -> None:
        images = [IMAGES[0], {"image": IMAGES[1]}, {"id": IDS[1]}]
        answer = post(shared, {"text": "a cat", "images": images}, "/v1/rank")
        (query,) = text_vectors(shared, ["a cat"])
        expected = np.stack([*image_vectors(shared)[:2], stored_vectors(shared)[1]]) @ query
        assert [each["index"] for each in answer["candidates"]] == np.argsort(-expected).tolist()

    @pytest.mark.parametrize(
        ("body", "status", "code", "param"),
        [
            ({"id": point_id("s3://bucket/9.jpg"), "texts": ["a"]}, 404, "not_found", "id"),
            ({"id": "nonsense", "texts": ["a"]}, 422, "invalid_request", "id"),
            ({"image_url": "https://a.org/b.jpg", "texts": ["a"]}, 422, "image_url_disabled", "image_url"),
            ({"text": "a", "images": [{"id": point_id("s3://bucket/9.jpg")}]}, 404, "not_found", "images.0"),
            ({"text": "a", "images": [{"image_url": "https://a.org/b"}]}, 422, "image_url_disabled", "images.0"),
        ],
        ids=lambda each: str(each)[:60],
    )
    def test_an_unusable_image_is_named(self, shared: World, body: Any, status: int, code: str, param: str) -> None:
        error = post(shared, body, "/v1/rank", status=status)["error"]
        assert (error["code"], error["param"]) == (code, param)
