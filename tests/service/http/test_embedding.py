"""The embedding routes, compared with the model itself."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import World
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.models.tokenizer import Tokenizer
from viewfinder.query.images import QueryImages
from viewfinder.service.http.routes.input_schemas import PIXEL
from viewfinder.service.inputs import MAX_INPUTS
from viewfinder.sources.uris import point_id
from viewfinder.testing.models import Family, tiny_checkpoint

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.slow

TEXTS = ["a cat on a mat", "a dog in the snow", "two birds"]
AN_ID = point_id("s3://bucket/0.jpg")


def image(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGES = [base64.b64encode(image(seed)).decode() for seed in range(3)]


def post(world: World, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = world.client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    return dict(answer.json() if status == 200 else answer.json()["error"])


def encoder(world: World) -> Encoder:
    return world.service.follower.snapshot().encoder


def pixels(world: World) -> np.ndarray[Any, Any]:
    limits = ImageLimits(10**6, 10**6)
    return np.stack([decode(image(seed), encoder(world).preprocess, limits).pixels for seed in range(3)])


def test_vectors_equal_the_models_in_request_order(shared: World) -> None:
    body = post(shared, "/v1/embed", {"texts": TEXTS, "images": [IMAGES[0], f"data:image/png;base64,{IMAGES[1]}"]})
    texts, _ = encoder(shared).encode_texts(TEXTS)
    images = encoder(shared).encode_images(pixels(shared)[:2])
    assert np.allclose([each["vector"] for each in body["texts"]], texts, atol=1e-5)
    assert np.allclose([each["vector"] for each in body["images"]], images, atol=1e-5)
    assert [each["cut"] for each in body["texts"]] == [0, 0, 0]
    assert (body["model"], body["fingerprint"], body["dimension"]) == (
        shared.checkpoints["first"].name,
        shared.checkpoints["first"].fingerprint,
        32,
    )
    assert body["took_ms"] > 0
    assert body["warnings"] == []


def test_a_text_beyond_the_context_is_embedded_with_a_warning(shared: World) -> None:
    body = post(shared, "/v1/embed", {"texts": ["a cat", "cat " * 100]})
    assert [each["cut"] for each in body["texts"]] == [0, 25]
    assert body["warnings"] == ["Text 1 is longer than the model reads: 25 tokens beyond the first 77 were left out."]


def test_the_maximum_number_of_inputs_is_accepted(shared: World) -> None:
    body = post(shared, "/v1/embed", {"texts": ["a cat"] * (MAX_INPUTS - 2), "images": [PIXEL, PIXEL]})
    assert (len(body["texts"]), len(body["images"])) == (MAX_INPUTS - 2, 2)
    assert body["images"][0] == body["images"][1]


INVALID_IMAGES = [
    ("a cat", 422, "invalid_image", "base64"),
    ("https://example.com/cat.jpg", 422, "invalid_image", "base64"),
    (base64.b64encode(b"GET / HTTP/1.1").decode(), 422, "invalid_image", "begins with"),
    (base64.b64encode(image(0)[:-2000]).decode(), 422, "invalid_image", "truncated"),
    (base64.b64encode(bytes(21 * 1024**2)).decode(), 413, "body_too_large", "20,971,520"),
]


@pytest.mark.parametrize(
    ("bad", "status", "code", "named"), INVALID_IMAGES, ids=["text", "url", "http", "cut", "large"]
)
@pytest.mark.parametrize("path", ["/v1/embed", "/v1/rank"])
def test_the_error_of_an_invalid_image_names_its_position(
    shared: World, path: str, bad: str, status: int, code: str, named: str
) -> None:
    body: dict[str, Any] = {"images": [PIXEL, bad, "also bad"]}
    error = post(shared, path, body | ({"text": "a cat"} if path == "/v1/rank" else {}), status)
    assert error["code"] == code
    assert error["message"].startswith("images.1: ")
    assert named in error["message"]
    assert post(shared, "/v1/embed", {"images": [PIXEL]})["images"], "the service still answers"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "1 to 64"),
        ({"texts": [], "images": []}, "1 to 64"),
        ({"texts": ["a cat"] * 60, "images": [PIXEL] * 5}, "1 to 64, not 65"),
        ({"texts": ["a cat"] * 65}, "texts"),
        ({"texts": [""]}, "texts.0"),
        ({"texts": ["x" * 5000]}, "texts.0"),
        ({"texts": [1]}, "texts.0"),
        ({"texts": "a cat"}, "texts"),
        ({"images": [""]}, "images.0"),
        ({"images": [None]}, "images.0"),
        ({"texts": ["a cat"], "colour": "red"}, "colour"),
        (b'{"texts": ["\\ud800"]}', "texts.0"),
    ],
)
def test_the_error_of_an_invalid_embedding_request_names_the_field(shared: World, body: Any, named: str) -> None:
    error = post(shared, "/v1/embed", body, 422)
    assert error["code"] == "invalid_request"
    assert named in error["message"]


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/embeddings", "/v1/rank"])
def test_embedding_without_an_index_is_503(world: World, path: str) -> None:
    world.service.follower.refresh()
    body: dict[str, Any] = {"texts": ["a cat"]}
    if path == "/v1/rank":
        body["image"] = PIXEL
    assert post(world, path, {"input": "a cat"} if path == "/v1/embeddings" else body, 503)["code"] == "no_index"


def reference_probabilities(world: World) -> tuple[Any, Any]:
    """Softmax of the model's own logits, computed with open_clip: images by texts, texts by images."""
    import torch

    own = encoder(world)
    tokens, _ = own._tokenizer(TEXTS)
    images = torch.from_numpy(pixels(world)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (own.preprocess.mean, own.preprocess.std))
    with torch.inference_mode():
        by_image, by_text = own.runtime.model.get_logits((images - mean) / std, torch.from_numpy(tokens))
    return by_image, by_text


def test_probabilities_of_texts_are_the_softmax_of_the_logits(shared: World) -> None:
    logits, _ = reference_probabilities(shared)
    body = post(shared, "/v1/rank", {"image": IMAGES[1], "texts": TEXTS})
    check_ranking(body["candidates"], logits[1])
    assert all(each["text"] == TEXTS[each["index"]] for each in body["candidates"])


def test_probabilities_of_images_are_the_softmax_of_the_logits(shared: World) -> None:
    _, logits = reference_probabilities(shared)
    body = post(shared, "/v1/rank", {"text": TEXTS[2], "images": IMAGES})
    check_ranking(body["candidates"], logits[2])
    assert [each["text"] for each in body["candidates"]] == [None] * 3


def check_ranking(candidates: list[dict[str, Any]], logits: torch.Tensor) -> None:
    probabilities = logits.softmax(0).tolist()
    assert [each["index"] for each in candidates] == sorted(range(3), key=lambda index: -probabilities[index])
    for each in candidates:
        assert each["probability"] == pytest.approx(probabilities[each["index"]], abs=1e-5)
        assert each["logit"] == pytest.approx(float(logits[each["index"]]), abs=1e-4)
    assert sum(each["probability"] for each in candidates) == pytest.approx(1)


def test_distant_logits_and_equal_candidates_are_ranked(shared: World) -> None:
    body = post(shared, "/v1/rank", {"image": PIXEL, "texts": ["a cat", "a dog", "a cat"]})
    cats = [each for each in body["candidates"] if each["text"] == "a cat"]
    assert [each["index"] for each in cats] == [0, 2]
    assert cats[0]["probability"] == cats[1]["probability"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "and `texts` must be given"),
        ({"image": PIXEL}, "and `texts` must be given"),
        ({"image": PIXEL, "text": "a cat"}, "and `texts` must be given"),
        ({"image": PIXEL, "texts": ["a cat"], "text": "a cat"}, "and `texts` must be given"),
        ({"image": PIXEL, "id": AN_ID, "texts": ["a cat"]}, "and `texts` must be given"),
        ({"text": "a cat", "images": [{"image": PIXEL, "id": AN_ID}]}, "images.0: give exactly one of"),
        ({"text": "a cat", "images": [{}]}, "images.0: give exactly one of"),
        ({"image": PIXEL, "texts": []}, "at least one"),
        ({"text": "a cat", "images": []}, "at least one"),
        ({"image": PIXEL, "texts": ["a cat"] * 65}, "texts"),
        ({"text": "a cat", "images": [PIXEL] * 65}, "images"),
        ({"image": [PIXEL], "texts": ["a cat"]}, "image"),
    ],
)
def test_an_invalid_ranking_request_is_refused_with_a_reason(shared: World, body: Any, named: str) -> None:
    error = post(shared, "/v1/rank", body, 422)
    assert error["code"] == "invalid_request"
    assert named in error["message"]


def test_the_error_of_an_invalid_ranking_image_names_the_field(shared: World) -> None:
    error = post(shared, "/v1/rank", {"image": "no base64", "texts": ["a cat"]}, 422)
    assert error["code"] == "invalid_image"
    assert error["message"].startswith("image: ")


@pytest.mark.parametrize(
    ("family", "short", "context"), [("clip", 3, 77), ("siglip", 4, 64), ("xlm-roberta", 5, 77), ("metaclip2", 5, 77)]
)
def test_every_kind_of_tokenizer_counts_what_it_encodes(
    tmp_path: Path, family: Family, short: int, context: int
) -> None:
    tokenizer = Tokenizer(locate(str(tiny_checkpoint(tmp_path / "tiny", family))).tokenizer)
    long = "cat " * 100
    _, (cut,) = tokenizer([long])
    assert tokenizer.lengths(["cat", long]) == [short, context + cut]
    assert cut > 0


def test_too_many_waiting_images_give_503_with_retry_after(served: World) -> None:
    limits = ImageLimits(10**6, 10**6)
    full = QueryImages(limits, timeout_s=20, memory_bytes=2**30, allow_url=False, max_waiting=1)
    served.service.images.close()
    served.service.images = full
    answer = served.client.post("/v1/embed", json={"images": [PIXEL, PIXEL]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert post(served, "/v1/embed", {"images": [PIXEL]})["images"]
