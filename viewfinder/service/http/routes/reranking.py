"""The route that ranks documents by a query, in the format of Cohere's and Jina's clients."""

import asyncio
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from viewfinder.query.fields import IndexName
from viewfinder.query.validation import JsonBody
from viewfinder.service.http.errors import ERROR_RESPONSES
from viewfinder.service.http.json_routes import HeldResponse, OpenAIRoute
from viewfinder.service.http.keys import Seen, Visible
from viewfinder.service.http.routes.input_schemas import PIXEL, AnyInput, SomeInputs, check_images
from viewfinder.service.http.routes.openai import LIVE_MODEL, NOT_FOUND, ModelName, Usage, index_of_model
from viewfinder.service.inputs import Encoded, Input, InputBudget, cosines, encode_inputs, warnings_of
from viewfinder.service.search_service import SearchService

_MIXED = (
    "The documents are texts and images. Texts are more similar to texts than to images, so that their scores cannot "
    "be compared: rank them separately."
)

_Documents = Annotated[
    SomeInputs,
    Field(description="Texts, or objects with `text`, `image` (base64 or URL) or `id` (of an indexed image)."),
]


class RerankRequest(JsonBody):
    """A query and documents to order by their similarity to it, in the format of Cohere and Jina."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "a cat", "documents": ["a kitten on a sofa", "a red car"], "top_n": 1},
                {"query": "a cat", "documents": [{"image": PIXEL}], "return_documents": True},
            ]
        }
    )

    query: Annotated[AnyInput, Field(description="A text, or an object as in `documents`.")]
    documents: _Documents
    model: ModelName = LIVE_MODEL
    index: IndexName | None = Field(None, description="The index whose model ranks, and which has the ids.")
    top_n: int | None = Field(None, strict=True, ge=1, description="Return only the best; all by default.")
    return_documents: bool | None = Field(
        None, strict=True, description="Repeat texts, URLs and ids in the answer; not the content of images."
    )
    rank_fields: list[Literal["text", "image"]] | None = Field(None, description="Accepted for Cohere's clients.")
    max_chunks_per_doc: int | None = Field(None, strict=True, description="Ignored: documents are not split.")
    max_tokens_per_doc: int | None = Field(None, strict=True, description="Ignored: the model's context is the limit.")

    @model_validator(mode="after")
    def _check(self) -> "RerankRequest":
        check_images("documents", [self.query, *self.documents])
        return self


class RerankDocument(BaseModel):
    """A document of the request; empty for the content of an image."""

    text: str | None = None
    image: str | None = Field(default=None, description="Its URL.")
    id: str | None = None


class RerankResult(BaseModel):
    """One document with its score."""

    index: int = Field(description="Its position in the request, from 0.")
    relevance_score: float = Field(description="Cosine of query and document, as `score` of a search.")
    document: RerankDocument | None = None


class RerankTokens(BaseModel):
    """Tokens read by the model."""

    input_tokens: int


class RerankMeta(BaseModel):
    """Cohere's account of a request."""

    tokens: RerankTokens


class RerankResponse(BaseModel):
    """Cohere's and Jina's response; their clients ignore our field `warnings`."""

    object: Literal["list"] = "list"
    id: str = Field(description="The request id.")
    model: str
    results: list[RerankResult] = Field(description="Best first; ties in the order of the request.")
    usage: Usage
    meta: RerankMeta
    warnings: tuple[str, ...] = ()


def router(service: SearchService, budget: InputBudget) -> APIRouter:
    """The reranking route over one replica's service."""
    routes = APIRouter(tags=["embedding"], route_class=OpenAIRoute)

    # The path of Cohere's second version, whose answers have the same fields.
    @routes.post("/v2/rerank", include_in_schema=False)
    @routes.post(
        "/v1/rerank",
        response_model=RerankResponse,
        responses=ERROR_RESPONSES | NOT_FOUND,
        summary="Rank texts and images by a query, in Cohere's format",
    )
    async def rerank(body: RerankRequest, request: Request, seen: Seen, visible: Visible) -> Response:
        generation = await index_of_model(visible, body.model, body.index).follower.ready()
        inputs = [each.input(f"documents.{index}") for index, each in enumerate(body.documents)]
        with ExitStack() as held:
            held.enter_context(budget.take(len(inputs)))
            query, *documents = await encode_inputs(
                service, generation, [body.query.input("query"), *inputs], seen, count_tokens=True
            )
            tokens = query.tokens + sum(each.tokens for each in documents)
            results = await asyncio.to_thread(_results, query, documents, inputs, body)
            answer = RerankResponse(
                id=request.state.id,
                model=generation.model,
                results=results,
                usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
                meta=RerankMeta(tokens=RerankTokens(input_tokens=tokens)),
                warnings=_rerank_warnings(query, documents),
            )
            make = functools.partial(_json, answer)
            return HeldResponse([make], held.pop_all().close)

    return routes


def _results(
    query: Encoded, documents: Sequence[Encoded], inputs: Sequence[Input], body: RerankRequest
) -> list[RerankResult]:
    scores = cosines(query, documents)
    best = np.argsort(-scores, kind="stable")[: body.top_n]
    return [
        RerankResult(
            index=int(index),
            relevance_score=float(scores[index]),
            document=_document(inputs[index]) if body.return_documents else None,
        )
        for index in best
    ]


def _document(given: Input) -> RerankDocument:
    match given.kind:
        case "text":
            return RerankDocument(text=given.value)
        case "image_url":
            return RerankDocument(image=given.value)
        case "id":
            return RerankDocument(id=given.value)
    return RerankDocument()


def _rerank_warnings(query: Encoded, documents: Sequence[Encoded]) -> tuple[str, ...]:
    mixed = len({each.is_text for each in documents}) > 1
    return (*warnings_of([query, *documents]), *([_MIXED] if mixed else []))


def _json(answer: RerankResponse) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode()
