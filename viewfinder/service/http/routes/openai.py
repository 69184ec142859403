"""The embedding route for OpenAI's clients."""

import asyncio
import base64
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import to_json

from viewfinder.client.results import ErrorResponse
from viewfinder.query.cursor import Vector
from viewfinder.query.fields import IndexName
from viewfinder.query.validation import JsonBody, refuse
from viewfinder.service.generation.follower import NotReadyError
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.errors import ERROR_RESPONSES, HTTPError
from viewfinder.service.http.json_routes import HeldResponse, OpenAIRoute
from viewfinder.service.http.keys import Seen, Visible
from viewfinder.service.http.routes.input_schemas import (
    PIXEL,
    InputPart,
    SomeInputs,
    as_list,
    as_part,
    check_images,
)
from viewfinder.service.indexes import Indexes, ServedIndex
from viewfinder.service.inputs import InputBudget, encode_inputs, warnings_of
from viewfinder.service.search_service import SearchService

# The name by which clients can ask for the live model, whatever it is.
LIVE_MODEL = "viewfinder"
# Vectors that are made JSON at once: numbers take the interpreter 10 to 20 ms.
_PART = 32

NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "There is no such index, live model, or image in the index."}
}
ModelName = Annotated[
    str,
    Field(
        max_length=1000,
        description="Name or fingerprint of a live model (GET /v1/models), which also picks the index; or just "
        "`viewfinder` for that of the index.",
    ),
]


class Message(JsonBody):
    """A message of a chat, in which vLLM expects images to embed."""

    role: str = Field(max_length=100, description="Ignored.")
    content: Annotated[
        list[Annotated[InputPart, BeforeValidator(as_part, json_schema_input_type=InputPart)]],
        BeforeValidator(as_list, json_schema_input_type=str | list[InputPart]),
        Field(description="A text, or a list with one text or image."),
    ]


class EmbeddingsRequest(JsonBody):
    """Texts and images to embed: OpenAI's body, with the additions of Jina and vLLM for images."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "viewfinder", "input": ["a cat", "a dog"]},
                {"input": [{"text": "a cat"}, {"image": PIXEL}], "encoding_format": "base64"},
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                            ],
                        }
                    ]
                },
            ],
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("input", "messages")
            ],
        }
    )

    input: (
        Annotated[
            SomeInputs,
            BeforeValidator(as_list, json_schema_input_type=str | InputPart | SomeInputs),
            Field(
                description="A text, an object with `text`, `image` (base64 or URL) or `id` (of an indexed image), or "
                "up to 2,048 of them, of which 64 may be images."
            ),
        ]
        | None
    ) = None
    messages: list[Message] | None = Field(
        None, min_length=1, max_length=16, fail_fast=True, description="Instead of `input`: one text or image."
    )
    model: ModelName = LIVE_MODEL
    index: IndexName | None = Field(None, description="The index whose model encodes them, and which has the ids.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers (by default), or base64 of them as little-endian float32."
    )
    dimensions: int | None = Field(
        None,
        strict=True,
        ge=1,
        description="The model's own dimension. A model with Matryoshka vectors (GET /v1/models) also takes a smaller "
        "one: its vectors are cut and made unit length again.",
    )
    user: str | None = Field(None, description="Ignored.")
    embedding_type: Literal["float", "base64"] | None = Field(None, description="Jina's name of `encoding_format`.")
    normalized: Literal[True] | None = Field(None, description="Vectors always have unit length.")
    task: str | None = Field(None, description="Ignored: the model has one space for all tasks.")
    truncate: bool | None = Field(
        None, strict=True, description="Ignored: what the model does not read of a text is left out."
    )

    @model_validator(mode="after")
    def _check(self) -> "EmbeddingsRequest":
        if (self.input is None) == (self.messages is None):
            refuse("give either `input` or `messages`.")
        if self.messages is not None and len(self.parts()) != 1:
            refuse(
                "messages: the model encodes one text or image at a time, not {count} parts; `input` takes several.",
                count=len(self.parts()),
            )
        if self.encoding_format and self.embedding_type and self.encoding_format != self.embedding_type:
            refuse("embedding_type: it contradicts `encoding_format`. Give one of them.")
        check_images("input", self.parts())
        return self

    def parts(self) -> list[InputPart]:
        """Texts and images in the order of their vectors."""
        return self.input or [part for message in self.messages or () for part in message.content]


class OpenAIEmbedding(BaseModel):
    """One vector, in OpenAI's format."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read by the model, start and end marks included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """OpenAI's response; its clients ignore our field `warnings`."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: Usage
    warnings: list[str] = Field(
        default_factory=list, description="Texts that were cut; of the first 64, those in another language."
    )


def router(service: SearchService, budget: InputBudget) -> APIRouter:
    """The embedding route for OpenAI's clients over one replica's service."""
    routes = APIRouter(tags=["embedding"], route_class=OpenAIRoute)

    @routes.post(
        "/v1/embeddings",
        response_model=EmbeddingsResponse,
        responses=ERROR_RESPONSES | NOT_FOUND,
        summary="Vectors of texts and images, in OpenAI's format",
    )
    async def embeddings(body: EmbeddingsRequest, seen: Seen, visible: Visible) -> Response:
        generation = await index_of_model(visible, body.model, body.index).follower.ready()
        dimension = _dimension(body.dimensions, generation)
        field = "input" if body.messages is None else "messages"
        inputs = [each.input(f"{field}.{index}") for index, each in enumerate(body.parts())]
        with ExitStack() as held:
            held.enter_context(budget.take(len(inputs)))
            encoded = await encode_inputs(service, generation, inputs, seen, count_tokens=True)
            vectors = [each.vector for each in encoded]
            if dimension < generation.encoder.dimension:
                vectors = await asyncio.to_thread(_cut, vectors, dimension)
            tokens = sum(each.tokens for each in encoded)
            end = {
                "model": generation.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "warnings": warnings_of(encoded),
            }
            as_text = "base64" in (body.encoding_format, body.embedding_type)
            return HeldResponse(_json_parts(vectors, end, as_text=as_text), held.pop_all().close)

    return routes


def index_of_model(visible: Indexes, model: str, index: str | None) -> ServedIndex:
    """The index whose live model has this name: the one that is named, else the first.

    Raises an `HTTPError` if there is none, and `NotReadyError` if nothing is live.
    """
    asked = visible.of(index)
    if model == LIVE_MODEL:
        return asked
    live: list[str] = []
    for each in visible if index is None else [asked]:
        try:
            made_by = each.follower.collection().metadata
        except NotReadyError:
            continue
        if model in (made_by.model_name, made_by.fingerprint):
            return visible.of(each.name)
        live.append(made_by.model_name)
    if not live:
        asked.follower.collection()
    raise HTTPError(
        404,
        "model_not_found",
        f"model: {model[:200]!r} is not live; {' and '.join(map(repr, dict.fromkeys(live)))} "
        f"{'is' if len(set(live)) == 1 else 'are'}.",
        f"Use such a name, or {LIVE_MODEL!r} for the live model.",
    )


def _dimension(asked: int | None, generation: Generation) -> int:
    """The number of numbers that each vector of the answer has."""
    full = generation.encoder.dimension
    if asked is None or asked == full or (asked < full and generation.encoder.checkpoint.spec.matryoshka):
        return asked or full
    raise HTTPError(
        400,
        "invalid_request",
        f"dimensions: {generation.model!r} makes vectors of {full} numbers, not {asked}.",
        f"Leave `dimensions` out, or use a value up to {full}."
        if generation.encoder.checkpoint.spec.matryoshka
        else "Leave `dimensions` out: this model's vectors mean nothing if they are cut.",
    )


def _cut(vectors: Sequence[Vector], dimension: int) -> list[Vector]:
    """The first numbers of each vector, of unit length again."""
    cut = np.stack([vector[:dimension] for vector in vectors])
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return list(cut / np.maximum(norms, np.finfo(np.float32).tiny))


def _json_parts(vectors: Sequence[Vector], end: dict[str, Any], *, as_text: bool) -> Iterator[Callable[[], bytes]]:
    """The JSON of the answer, in parts that are made one after the other."""

    def part(start: int) -> bytes:
        data = [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else vector.tolist()}
            for index, vector in enumerate(vectors[start : start + _PART], start)
        ]
        opening = b'{"object":"list","data":[' if start == 0 else b","
        closing = b"]," + to_json(end)[1:] if start + _PART >= len(vectors) else b""
        return opening + to_json(data)[1:-1] + closing

    for start in range(0, len(vectors), _PART):
        yield functools.partial(part, start)


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
