"""The route that ranks texts by an image, or images by a text, with the model's probabilities."""

import time
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from viewfinder.client.results import Candidate, ErrorResponse, Ranking
from viewfinder.query.fields import Id, ImageUrl, IndexName
from viewfinder.query.validation import JsonBody
from viewfinder.service.generation.generation import Generation
from viewfinder.service.http.errors import ERROR_RESPONSES
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.http.keys import Seen, Visible
from viewfinder.service.http.routes.input_schemas import PIXEL, Base64File, EmbedText, ImagePart, Texts
from viewfinder.service.inputs import MAX_INPUTS, Input, cosines, encode_inputs, warnings_of
from viewfinder.service.search_service import SearchService

_UNKNOWN_IMAGE: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorResponse, "description": "The index holds no image with the given id."}
}
_RANK_FIELDS = ("image", "image_url", "id", "texts", "text", "images")
_IMAGE_FIELDS = ("image", "image_url", "id")


def _as_image(value: Any) -> Any:
    return {"image": value} if isinstance(value, str) else value


_Image = Annotated[ImagePart, BeforeValidator(_as_image, json_schema_input_type=Base64File | ImagePart)]


class RankRequest(JsonBody):
    """An image with the texts that may describe it, or a text with the images that it may describe."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": PIXEL, "texts": ["a cat", "a dog", "nothing at all"]},
                {"text": "a cat", "images": [PIXEL, {"id": "0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a"}]},
            ]
        },
    )

    index: IndexName | None = Field(None, description="The index whose model ranks, and which has the ids.")
    image: Base64File | None = None
    image_url: ImageUrl | None = None
    id: Id | None = Field(None, description="Id of an indexed image, as in a hit.")
    texts: Texts | None = None
    text: EmbedText | None = None
    images: Annotated[list[_Image], Field(max_length=MAX_INPUTS, fail_fast=True)] | None = Field(
        None, description="Images as base64, or objects with `image`, `image_url` or `id`."
    )

    @model_validator(mode="after")
    def _one_against_many(self) -> "RankRequest":
        given = {name for name in _RANK_FIELDS if getattr(self, name) is not None}
        if given not in ({"text", "images"}, *({name, "texts"} for name in _IMAGE_FIELDS)):
            raise ValueError("either `image` (or `image_url`, `id`) and `texts` must be given, or `text` and `images`")
        if not (self.texts or self.images):
            raise ValueError("there must be at least one candidate in `texts` or `images`")
        return self

    def query(self) -> Input:
        """The text or image that the candidates are compared with."""
        name: Any = next(each for each in ("text", *_IMAGE_FIELDS) if getattr(self, each) is not None)
        return Input(name, name, getattr(self, name))

    def candidates(self) -> list[Input]:
        texts = [Input(f"texts.{index}", "text", text) for index, text in enumerate(self.texts or ())]
        return texts or [each.input(f"images.{index}") for index, each in enumerate(self.images or ())]


def router(service: SearchService) -> APIRouter:
    """The ranking route over one replica's service."""
    routes = APIRouter(tags=["embedding"], route_class=JsonRoute)

    @routes.post(
        "/v1/rank",
        responses=ERROR_RESPONSES | _UNKNOWN_IMAGE,
        summary="Rank texts by an image, or images by a text",
    )
    async def rank(body: RankRequest, seen: Seen, visible: Visible) -> Ranking:
        began = time.perf_counter()
        generation = await visible.of(body.index).follower.ready()
        query, *candidates = await encode_inputs(service, generation, [body.query(), *body.candidates()], seen)
        scores = cosines(query, candidates)
        return Ranking(
            model=generation.model,
            fingerprint=generation.encoder.fingerprint,
            took_ms=round((time.perf_counter() - began) * 1000, 2),
            warnings=warnings_of([query, *candidates]),
            candidates=_ranked(scores, generation, body.texts),
        )

    return routes


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
