"""LangChain and LiteLLM against a running service."""

import math
from typing import Any

import httpx
import pytest

from tests.fixtures.services import CAPTIONS, Running
from viewfinder.service.http.routes.input_schemas import PIXEL

pytestmark = [pytest.mark.slow, pytest.mark.full]

NO_LANGCHAIN = "LangChain is not installed: pip install langchain-openai"
NO_LITELLM = "LiteLLM is not installed: pip install litellm"


def check_texts(vectors: list[list[float]]) -> None:
    assert len(vectors) == len(CAPTIONS)
    assert all(math.isclose(math.hypot(*each), 1, abs_tol=1e-4) for each in vectors)


class TestLangChain:
    def embeddings(self, running: Running, **options: Any) -> Any:
        langchain = pytest.importorskip("langchain_openai", reason=NO_LANGCHAIN)
        return langchain.OpenAIEmbeddings(
            base_url=f"{running.url}/v1", api_key="none", model="viewfinder", max_retries=0, **options
        )

    def test_documents_and_queries_are_embedded(self, running: Running) -> None:
        embeddings = self.embeddings(running, check_embedding_ctx_length=False)
        vectors = embeddings.embed_documents(list(CAPTIONS))
        check_texts(vectors)
        assert embeddings.embed_query(CAPTIONS[1]) == pytest.approx(vectors[1], abs=1e-6)

    def test_many_documents_are_embedded(self, running: Running) -> None:
        embeddings = self.embeddings(running, check_embedding_ctx_length=False, chunk_size=2048)
        assert len(embeddings.embed_documents([f"cat {number}" for number in range(2100)])) == 2100

    def test_its_token_arrays_are_refused_with_the_setting_that_helps(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        openai = pytest.importorskip("openai")
        tiktoken = pytest.importorskip("tiktoken", reason=NO_LANGCHAIN)
        # Encodings are downloaded; this one has a token for each byte.
        ranks = {bytes([each]): each for each in range(256)}
        encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})
        monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
        monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: encoding)
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            self.embeddings(running).embed_documents(["a cat"])


class TestLiteLLM:
    pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

    @pytest.fixture
    def litellm(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it fetches a list of prices
        return pytest.importorskip("litellm", reason=NO_LITELLM)

    @pytest.mark.parametrize("provider", ["openai", "jina_ai", "hosted_vllm"])
    def test_texts_are_embedded(self, running: Running, litellm: Any, provider: str) -> None:
        answer = litellm.embedding(
            model=f"{provider}/viewfinder", input=list(CAPTIONS), api_base=f"{running.url}/v1", api_key="none"
        )
        check_texts([each["embedding"] for each in answer.data])
        assert answer.usage.prompt_tokens > len(CAPTIONS)

    def test_images_are_embedded_as_for_jina(self, running: Running, litellm: Any) -> None:
        answer = litellm.embedding(
            model="jina_ai/viewfinder",
            input=["a cat", f"data:image/png;base64,{PIXEL}"],
            api_base=f"{running.url}/v1",
            api_key="none",
        )
        sent = httpx.post(f"{running.url}/v1/embed", json={"texts": ["a cat"], "images": [PIXEL]}).json()
        expected = [sent["texts"][0]["vector"], sent["images"][0]["vector"]]
        for each, vector in zip(answer.data, expected, strict=True):
            assert each["embedding"] == pytest.approx(vector, abs=1e-5)

    @pytest.mark.parametrize("provider", ["cohere", "jina_ai", "hosted_vllm"])
    def test_documents_are_ranked(self, running: Running, litellm: Any, provider: str) -> None:
        base = f"{running.url}/v1" if provider == "hosted_vllm" else running.url
        answer = litellm.rerank(
            model=f"{provider}/viewfinder",
            query=CAPTIONS[2],
            documents=list(CAPTIONS),
            top_n=2,
            return_documents=True,
            api_base=base,
            api_key="none",
        )
        assert answer.results[0]["index"] == 2
        assert len(answer.results) == 2
        assert answer.results[0]["document"]["text"] == CAPTIONS[2]
        assert answer.results[0]["relevance_score"] == pytest.approx(1, abs=1e-5)

    def test_an_unknown_model_is_not_found(self, running: Running, litellm: Any) -> None:
        with pytest.raises(litellm.exceptions.NotFoundError, match="not live"):
            litellm.embedding(model="openai/other", input=["a"], api_base=f"{running.url}/v1", api_key="none")
