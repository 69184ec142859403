"""`/v1/embeddings` and `/v1/models` with OpenAI's own client, and requests as Jina's and vLLM's clients send them."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from tests.fixtures.services import listening
from tests.query.fetching import fetcher
from tests.service.conftest import World
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.encoder import Encoder
from viewfinder.query.images import OverloadedError, QueryImages
from viewfinder.service.http.json_routes import HeldResponse
from viewfinder.service.http.routes.input_schemas import PIXEL
from viewfinder.service.inputs import MAX_INPUTS, MAX_INPUTS_IN_FLIGHT, MAX_LARGE_INPUTS, InputBudget
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

TEXTS = ["a cat on a mat", "a dog in the snow", "two birds"]
TWO_PARTS = [{"type": "text", "text": "a cat"}, {"image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]


def image(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = (base64.b64encode(image(colour)).decode() for colour in ("red", "blue"))


def encoder(world: World) -> Encoder:
    return world.service.follower.snapshot().encoder


def vector_of(world: World, file: bytes) -> Any:
    pixels = decode(file, encoder(world).preprocess, ImageLimits(10**6, 10**6)).pixels
    return encoder(world).encode_images(pixels[None])[0]


def post(world: World, body: Any, path: str = "/v1/embeddings") -> Any:
    answer = world.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def vectors(world: World, **body: Any) -> Any:
    return np.array([each["embedding"] for each in post(world, body)["data"]])


def refusal(world: World, body: Any, status: int = 400, path: str = "/v1/embeddings") -> dict[str, Any]:
    answer = world.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


@pytest.fixture(scope="module")
def client(shared: World) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, at a real server on loopback."""
    with (
        listening(shared.service) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


@pytest.mark.parametrize(
    "options",
    [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"extra_body": {"encoding_format": None}}],
)
def test_openais_client_gets_the_models_vectors(shared: World, client: openai.OpenAI, options: Any) -> None:
    model = shared.checkpoints["first"].name
    answer = client.embeddings.create(input=TEXTS, model=model, user="somebody", dimensions=32, **options)
    expected, _ = encoder(shared).encode_texts(TEXTS)
    vectors = [
        np.frombuffer(base64.b64decode(each.embedding), "<f4") if isinstance(each.embedding, str) else each.embedding
        for each in answer.data
    ]
    assert np.allclose(vectors, expected, atol=1e-5)
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model) == ("list", model)


@pytest.mark.parametrize("model", ["viewfinder", "FINGERPRINT"])
def test_the_live_model_has_its_fingerprint_and_an_alias_as_names(
    shared: World, client: openai.OpenAI, model: str
) -> None:
    model = model.replace("FINGERPRINT", shared.checkpoints["first"].fingerprint)
    answer = client.embeddings.create(input="a cat", model=model)
    assert answer.model == shared.checkpoints["first"].name
    assert len(answer.data) == 1


def test_usage_counts_the_tokens_that_the_model_reads(client: openai.OpenAI) -> None:
    def tokens(texts: str | list[str]) -> int:
        usage = client.embeddings.create(input=texts, model="viewfinder").usage
        assert usage.total_tokens == usage.prompt_tokens
        return usage.prompt_tokens

    # Each text has a start and an end mark; only tokens within the context count.
    assert tokens("cat") == 3
    assert tokens(["cat", "cat cat"]) == 7
    assert tokens(["cat", "cat " * 100]) == 80
    assert tokens("cat") == 3, "the cache does not change the count"


@pytest.mark.parametrize(
    ("options", "param", "named"),
    [
        ({"input": [1, 2, 3]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": []}, "input", "empty"),
        ({"input": ""}, "input.0.text", "empty"),
        ({"input": ["a", " \u200b"]}, "input.1", "no visible character"),
        ({"input": ["a", "b" * 4_001]}, "input.1.text", "4,001 characters"),
        ({"input": ["a"] * 2_049}, "input", "2,049 are too many; the maximum is 2,048"),
        ({"input": ["a", None]}, "input.1", "expected a JSON object"),
        ({"input": [{"image": PIXEL}] * 65}, "input", "64 images, not 65"),
        ({"dimensions": 16}, "dimensions", "32 numbers, not 16"),
        ({"dimensions": 0}, "dimensions", "minimum of 1"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"extra_body": {"embedding_type": "binary"}}, "embedding_type", "'float' or 'base64'"),
        ({"extra_body": {"normalized": False}}, "normalized", "True"),
        ({"extra_body": {"input_type": "query"}}, None, "input_type"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_an_invalid_request_is_a_bad_request_for_openais_client(
    client: openai.OpenAI, options: Any, param: str | None, named: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(**({"input": "a cat", "model": "viewfinder"} | options))
    error = refused.value
    assert (error.code, error.type, error.param) == ("invalid_request", "invalid_request_error", param)
    assert named in str(error)
    assert len(str(error)) < 400


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.embeddings.create(input="a cat", model="text-embedding-3-small")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert "text-embedding-3-small" in str(refused.value)


@pytest.mark.parametrize("options", [{}, pytest.param({"encoding_format": "float"}, marks=pytest.mark.full)])
def test_2048_texts_in_one_request(shared: World, client: openai.OpenAI, options: Any) -> None:
    texts = [f"cat number {number}" for number in range(MAX_LARGE_INPUTS)]
    answer = client.embeddings.create(input=texts, model="viewfinder", **options)
    assert [each.index for each in answer.data] == list(range(MAX_LARGE_INPUTS))
    expected, _ = encoder(shared).encode_texts([texts[0], texts[63], texts[64], texts[-1]])
    found = [answer.data[number].embedding for number in (0, 63, 64, MAX_LARGE_INPUTS - 1)]
    assert np.allclose(found, expected, atol=1e-5)
    assert answer.usage.prompt_tokens == sum(encoder(shared).count_tokens(texts))


def test_cut_texts_are_reported(shared: World) -> None:
    answer = post(shared, {"input": ["a cat"] * 70 + ["cat " * 100]})
    assert answer["warnings"] == [
        "Text 70 is longer than the model reads: 25 tokens beyond the first 77 were left out."
    ]


class TestImages:
    """Images as inputs."""

    @pytest.mark.parametrize(
        "given",
        [
            {"image": RED},
            {"image": f"data:image/png;base64,{RED}"},
            {"image_url": f"data:image/png;base64,{RED}"},
            {"image_url": {"url": f"data:image/png;base64,{RED}", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{RED}"}},
            f"data:image/png;base64,{RED}",
        ],
        ids=["jina", "jina with a data URL", "image_url", "openai", "openai with a type", "a data URL"],
    )
    def test_every_form_has_the_vector_of_the_image(self, shared: World, given: Any) -> None:
        expected = vector_of(shared, image("red"))
        assert np.allclose(vectors(shared, input=given), [expected], atol=1e-5)
        assert np.allclose(vectors(shared, input=["a cat", given])[1], expected, atol=1e-5)
        if isinstance(given, dict):
            content = [{"role": "user", "content": [given]}]
            assert np.allclose(vectors(shared, messages=content), [expected], atol=1e-5)

    def test_texts_and_images_keep_their_order(self, shared: World) -> None:
        given = [{"image": RED}, "a cat", {"text": "a dog"}, {"image": BLUE}, {"image": RED}, "a cat"]
        found = vectors(shared, input=given, model="viewfinder", task="retrieval.query", normalized=True)
        (cat, dog), _ = encoder(shared).encode_texts(["a cat", "a dog"])
        red, blue = vector_of(shared, image("red")), vector_of(shared, image("blue"))
        assert np.allclose(found, [red, cat, dog, blue, red, cat], atol=1e-5)

    def test_a_message_may_be_a_text(self, shared: World) -> None:
        (expected,), _ = encoder(shared).encode_texts(["a cat"])
        for content in ("a cat", [{"type": "text", "text": "a cat"}]):
            found = vectors(shared, messages=[{"role": "user", "content": content}], encoding_format="float")
            assert np.allclose(found, [expected], atol=1e-5)

    def test_an_indexed_image_has_its_stored_vector(self, shared: World) -> None:
        name = point_id("s3://bucket/0.jpg")
        live = shared.service.follower.snapshot().collection
        stored = shared.store.points.vectors(live, [name])[name]
        assert np.allclose(vectors(shared, input=["a cat", {"id": name}])[1], stored, atol=1e-6)

    def test_jinas_embedding_type_is_the_format(self, shared: World) -> None:
        text = post(shared, {"input": [{"image": RED}], "embedding_type": "base64"})["data"][0]["embedding"]
        found = np.frombuffer(base64.b64decode(text), "<f4")
        assert np.allclose(found, vector_of(shared, image("red")), atol=1e-5)

    @pytest.mark.parametrize(
        ("body", "status", "code", "param"),
        [
            ({"input": ["a cat", {"image": "no base64"}]}, 400, "invalid_image", "input.1"),
            ({"input": [{"image": base64.b64encode(image("red")[:60]).decode()}]}, 400, "invalid_image", "input.0"),
            ({"input": {"image": "https://example.org/a.jpg"}}, 400, "image_url_disabled", "input.0"),
            ({"input": {"image_url": {"url": "http://localhost/a.jpg"}}}, 400, "image_url_disabled", "input.0"),
            ({"input": {"image_url": f"https://example.org/{'a' * 2048}"}}, 400, "invalid_request", "input.0"),
            ({"input": {"image_url": {"href": "a"}}}, 400, "invalid_request", "input.0.image_url"),
            ({"input": {"image": RED, "text": "a cat"}}, 400, "invalid_request", "input.0"),
            ({"input": {}}, 400, "invalid_request", "input.0"),
            ({"input": {"id": point_id("s3://bucket/missing.jpg")}}, 404, "not_found", "input.0"),
            ({"messages": []}, 400, "invalid_request", "messages"),
            (
                {"messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]},
                400,
                "invalid_request",
                "messages",
            ),
            ({"messages": [{"role": "user", "content": "a"}], "input": "a"}, 400, "invalid_request", None),
            ({}, 400, "invalid_request", None),
        ],
        ids=lambda each: str(each)[:40],
    )
    def test_the_error_names_the_input(
        self, shared: World, body: Any, status: int, code: str, param: str | None
    ) -> None:
        error = refusal(shared, body, status)
        assert (error["code"], error["param"]) == (code, param)

    def test_urls_are_fetched_where_the_service_allows_it(self, served: World) -> None:
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(image("red"))

            def log_message(self, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            served.service.images.close()
            served.service.images = QueryImages(
                ImageLimits(10**6, 10**6),
                timeout_s=20,
                memory_bytes=2**30,
                allow_url=True,
                fetcher=fetcher(server.server_port, max_bytes=10**6),
            )
            url = f"http://images.test:{server.server_port}/red.png"
            given = [{"image": url}, {"image_url": url}, {"type": "image_url", "image_url": {"url": url}}]
            found = vectors(served, input=given)
            ranked = post(served, {"image_url": url, "texts": ["a cat"]}, "/v1/rank")
            reranked = post(
                served, {"query": {"image": url}, "documents": [{"image": url}], "return_documents": True}, "/v1/rerank"
            )
            server.shutdown()
            thread.join()
        assert np.allclose(found, [vector_of(served, image("red"))] * 3, atol=1e-5)
        assert requests == ["/red.png"] * 3, "once for each request"
        assert ranked["candidates"][0]["score"] == pytest.approx(
            float(encoder(served).encode_texts(["a cat"])[0][0] @ found[0]), abs=1e-5
        )
        assert reranked["results"] == [
            {"index": 0, "relevance_score": pytest.approx(1, abs=1e-5), "document": {"image": url}}
        ]


class TestDimensions:
    @pytest.fixture
    def matryoshka(self, served: World) -> Iterator[World]:
        """A service whose model has vectors that may be cut."""
        current = served.service.follower.snapshot()
        checkpoint = current.encoder.checkpoint
        current.encoder.checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, matryoshka=True))
        yield served
        current.encoder.checkpoint = checkpoint

    def test_matryoshka_vectors_are_cut_and_made_unit_length(self, matryoshka: World) -> None:
        full = vectors(matryoshka, input=TEXTS)
        found = vectors(matryoshka, input=TEXTS, dimensions=8)
        assert np.allclose(found, full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True), atol=1e-6)
        assert np.array_equal(vectors(matryoshka, input=TEXTS, dimensions=32), full)

    def test_no_dimension_above_the_models_is_accepted(self, matryoshka: World) -> None:
        error = refusal(matryoshka, {"input": TEXTS, "dimensions": 33})
        assert (error["param"], error["code"]) == ("dimensions", "invalid_request")


class TestModels:
    def test_the_live_model_is_listed_and_found_by_its_names(self, shared: World, client: openai.OpenAI) -> None:
        name = shared.checkpoints["first"].name
        listed = client.models.list()
        assert [each.id for each in listed.data] == [name, "viewfinder"]
        for each in (*listed.data, shared.checkpoints["first"].fingerprint):
            found = client.models.retrieve(each if isinstance(each, str) else each.id)
            assert found.object == "model"
            assert found.created > 1_700_000_000
            assert client.embeddings.create(input="a cat", model=found.id).model == name

    def test_another_model_is_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve("ViT-B-32::openai")
        assert refused.value.code == "model_not_found"

    def test_nothing_is_live_without_an_index(self, world: World) -> None:
        assert world.client.get("/v1/models").json()["data"] == []
        world.service.follower.refresh()
        assert world.client.get("/v1/models/viewfinder").json()["error"]["code"] == "no_index"


class TestKeys:
    @pytest.fixture
    def configured(self) -> dict[str, object]:
        return {"api_keys": hashlib.sha256(b"right").hexdigest()}

    def test_openais_client_recognizes_a_wrong_key(self, served: World) -> None:
        with listening(served.service) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as wrong:
            with pytest.raises(openai.AuthenticationError) as refused:
                wrong.models.list()
            assert refused.value.type == "authentication_error"
            assert wrong.with_options(api_key="right").models.list().data


class TestLoad:
    """Large requests do not take a service down."""

    @pytest.fixture
    def configured(self) -> dict[str, object]:
        return {"request_timeout_s": 1.0}

    def test_a_request_that_is_too_late_stops(self, served: World) -> None:
        current = served.service.follower.snapshot()
        real = current.encoder
        batches = []

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def encode_texts(self, texts: list[str]) -> Any:
                batches.append(len(texts))
                threading.Event().wait(0.2)
                return real.encode_texts(texts)

        current.loaded.encoder = Slow()  # type: ignore[assignment]
        error = refusal(served, {"input": [f"text {number}" for number in range(800)]}, 504)
        assert (error["code"], error["type"]) == ("timeout", "server_error")
        stopped = len(batches)
        assert stopped <= 7
        post(served, {"input": "a cat"})
        assert len(batches) <= stopped + 2, "the rest of the request was not encoded"
        assert served.service.pending() == 0

    async def test_an_answer_is_held_until_it_is_sent_or_dropped(self) -> None:
        ended: list[str] = []

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise OSError("the client is gone")

        response = HeldResponse([lambda: b"{}"], lambda: ended.append("failed"))
        with pytest.raises(Exception, match=r"^$|gone"):
            await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
        assert ended == ["failed"]
        dropped = HeldResponse([lambda: b"{}"], lambda: ended.append("dropped"))
        del dropped
        gc.collect()
        assert ended == ["failed", "dropped"]

    def test_large_requests_have_a_budget(self) -> None:
        budget = InputBudget()
        held = [budget.take(MAX_LARGE_INPUTS) for _ in range(MAX_INPUTS_IN_FLIGHT // MAX_LARGE_INPUTS)]
        for each in held:
            each.__enter__()
        with pytest.raises(OverloadedError), budget.take(MAX_INPUTS + 1):
            pass
        with budget.take(MAX_INPUTS):
            pass
        held[0].__exit__(None, None, None)
        with budget.take(MAX_LARGE_INPUTS):
            pass
