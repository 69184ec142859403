"""The routes that embed texts and images, and rank one against the other."""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter

from viewfinder.client.results import Candidate, Embedding, Embeddings, ErrorResponse, Ranking
from viewfinder.errors import ImageError
from viewfinder.query.cursor import Vector
from viewfinder.query.errors import QueryImageError
from viewfinder.query.images import Pixels
from viewfinder.query.language import language_warning
from viewfinder.query.vectors import check_finite
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.errors import ERROR_RESPONSES, HTTPError
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.http.routes.embedding_schemas import (
    EmbedRequest,
    OpenAIEmbedding,
    OpenAIRequest,
    OpenAIResponse,
    OpenAIUsage,
    RankRequest,
)
from viewfinder.service.search_service import SearchService

# The model name by which OpenAI's clients can ask for the live model.
ALIAS = "viewfinder"

_UNKNOWN_MODEL: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "The named model is not live."}
}


def router(service: SearchService) -> APIRouter:
    """The embedding routes over one replica's service."""
    routes = APIRouter(tags=["embedding"], route_class=JsonRoute)

    @routes.post("/v1/embed", responses=ERROR_RESPONSES, summary="Vectors of texts and images")
    async def embed(body: EmbedRequest) -> Embeddings:
        began = time.perf_counter()
        generation = service.follower.snapshot()
        texts, images = await asyncio.gather(
            _text_vectors(generation, body.texts, "texts"), _image_vectors(service, generation, images=body.images)
        )
        return Embeddings(
            **_answer(generation, began, _warnings(generation, body.texts, texts)),
            dimension=generation.encoder.dimension,
            texts=tuple(Embedding(vector=tuple(vector.tolist()), cut=cut) for vector, cut in texts),
            images=tuple(Embedding(vector=tuple(vector.tolist())) for vector in images),
        )

    @routes.post(
        "/v1/embeddings", responses=ERROR_RESPONSES | _UNKNOWN_MODEL, summary="Vectors of texts, in OpenAI's format"
    )
    async def embeddings(body: OpenAIRequest) -> OpenAIResponse:
        generation = service.follower.snapshot()
        _check_model(body, generation)
        encoded = await _text_vectors(generation, body.input, "input")
        tokens = sum(await service.in_thread(generation.encoder.count_tokens, body.input))
        as_text = body.encoding_format == "base64"
        return OpenAIResponse(
            data=[
                OpenAIEmbedding(index=index, embedding=_base64(vector) if as_text else vector.tolist())
                for index, (vector, _) in enumerate(encoded)
            ],
            model=generation.model,
            usage=OpenAIUsage(prompt_tokens=tokens, total_tokens=tokens),
            warnings=_warnings(generation, body.input, encoded),
        )

    @routes.post("/v1/rank", responses=ERROR_RESPONSES, summary="Rank texts by an image, or images by a text")
    async def rank(body: RankRequest) -> Ranking:
        began = time.perf_counter()
        generation = service.follower.snapshot()
        texts = body.texts if body.text is None else [body.text]
        given = {"images": body.images} if body.image is None else {"image": [body.image]}
        encoded, images = await asyncio.gather(
            _text_vectors(generation, texts or [], "texts" if body.text is None else "text"),
            _image_vectors(service, generation, **given),
        )
        # One side has a single vector. Not a matrix product: BLAS rounds rows by position, and equal rows would differ.
        scores = (np.array([vector for vector, _ in encoded], np.float64) * np.array(images, np.float64)).sum(axis=-1)
        return Ranking(
            **_answer(generation, began, _warnings(generation, texts or [], encoded)),
            candidates=_ranked(scores, generation, body.texts),
        )

    return routes


async def _text_vectors(generation: Generation, texts: Sequence[str], field: str) -> list[tuple[Vector, int]]:
    """As `Generation.encode_texts`; raises `QueryError` for a text that has no vector."""
    encoded = await generation.encode_texts(texts)
    for index, (vector, _) in enumerate(encoded):
        check_finite(vector, field if field == "text" else f"{field}.{index}", generation.encoder)
    return encoded


async def _image_vectors(service: SearchService, generation: Generation, **given: Sequence[str] | None) -> list[Vector]:
    """The vectors of images in base64; the error of an unusable one names its field."""
    tasks = {
        f"{field}.{index}" if field == "images" else field: asyncio.create_task(
            service.images.pixels(image, generation.encoder.preprocess)
        )
        for field, images in given.items()
        for index, image in enumerate(images or ())
    }
    pixels: list[Pixels] = []
    try:
        for place, task in tasks.items():
            try:
                pixels.append(await task)
            except ImageError as error:
                raise QueryImageError.of(place, error) from error
    finally:
        # After the first unusable image the others need not be decoded.
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    vectors = await generation.encode_images(pixels)
    for place, vector in zip(tasks, vectors, strict=True):
        check_finite(vector, place, generation.encoder)
    return vectors


def _ranked(
    scores: "np.ndarray[Any, np.dtype[np.float64]]", generation: Generation, texts: list[str] | None
) -> tuple[Candidate, ...]:
    logits = generation.encoder.logit_scale * scores + generation.encoder.logit_bias
    weights = np.exp(logits - logits.max())
    probabilities = weights / weights.sum()
    return tuple(
        Candidate(
            index=int(index),
            text=texts[index] if texts else None,
            score=float(scores[index]),
            logit=float(logits[index]),
            probability=float(probabilities[index]),
        )
        for index in np.argsort(-logits, kind="stable")
    )


def _check_model(body: OpenAIRequest, generation: Generation) -> None:
    encoder = generation.encoder
    if body.model not in (generation.model, encoder.fingerprint, ALIAS):
        raise HTTPError(
            404,
            "model_not_found",
            f"The model {body.model[:200]!r} is not live; {generation.model!r} is.",
            f"Use that name, or {ALIAS!r} for the live model.",
        )
    if body.dimensions not in (None, encoder.dimension):
        raise HTTPError(
            422,
            "invalid_request",
            f"dimensions: {generation.model!r} makes vectors of {encoder.dimension} numbers, not {body.dimensions}.",
            "Leave `dimensions` out.",
        )


def _answer(generation: Generation, began: float, warnings: list[str]) -> dict[str, Any]:
    return {
        "model": generation.model,
        "fingerprint": generation.encoder.fingerprint,
        "took_ms": round((time.perf_counter() - began) * 1000, 2),
        "warnings": tuple(warnings),
    }


def _warnings(generation: Generation, texts: Sequence[str], encoded: Sequence[tuple[Vector, int]]) -> list[str]:
    context, languages = generation.encoder.context_length, generation.encoder.checkpoint.spec.languages
    warnings = [
        f"Text {index} is longer than the model reads: {cut} tokens beyond the first {context} were left out."
        for index, (_, cut) in enumerate(encoded)
        if cut
    ]
    return warnings + [
        f"Text {index}: {warning}" for index, text in enumerate(texts) if (warning := language_warning(text, languages))
    ]


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
