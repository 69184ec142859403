"""The route that embeds texts and images in our own format."""

import time

from fastapi import APIRouter
from pydantic import ConfigDict, Field, model_validator

from viewfinder.client.results import Embedding, Embeddings
from viewfinder.query.fields import IndexName
from viewfinder.query.validation import JsonBody
from viewfinder.service.http.errors import ERROR_RESPONSES
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.http.keys import Seen, Visible
from viewfinder.service.http.routes.input_schemas import PIXEL, Base64Files, Texts
from viewfinder.service.inputs import MAX_INPUTS, Input, encode_inputs, warnings_of
from viewfinder.service.search_service import SearchService


class EmbedRequest(JsonBody):
    """Texts and images to embed in one vector space."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a cat on the beach"], "images": [PIXEL]}]})

    index: IndexName | None = Field(None, description="The index whose model encodes them.")
    texts: Texts = Field(default_factory=list)
    images: Base64Files = Field(default_factory=list)

    @model_validator(mode="after")
    def _some_but_not_too_many(self) -> "EmbedRequest":
        count = len(self.texts) + len(self.images)
        if not 1 <= count <= MAX_INPUTS:
            raise ValueError(f"texts and images together must be 1 to {MAX_INPUTS}, not {count}")
        return self


def router(service: SearchService) -> APIRouter:
    """The embedding route over one replica's service."""
    routes = APIRouter(tags=["embedding"], route_class=JsonRoute)

    @routes.post("/v1/embed", responses=ERROR_RESPONSES, summary="Vectors of texts and images")
    async def embed(body: EmbedRequest, seen: Seen, visible: Visible) -> Embeddings:
        began = time.perf_counter()
        generation = await visible.of(body.index).follower.ready()
        texts = [Input(f"texts.{index}", "text", text) for index, text in enumerate(body.texts)]
        images = [Input(f"images.{index}", "image", image) for index, image in enumerate(body.images)]
        encoded = await encode_inputs(service, generation, [*texts, *images], seen)
        vectors = [Embedding(vector=tuple(each.vector.tolist()), cut=each.cut) for each in encoded]
        return Embeddings(
            model=generation.model,
            fingerprint=generation.encoder.fingerprint,
            took_ms=round((time.perf_counter() - began) * 1000, 2),
            warnings=warnings_of(encoded),
            dimension=generation.encoder.dimension,
            texts=tuple(vectors[: len(texts)]),
            images=tuple(vectors[len(texts) :]),
        )

    return routes
