"""The route that indexes images now."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field, model_validator

from viewfinder.client.results import IndexedImages
from viewfinder.query.fields import IndexName
from viewfinder.query.validation import JsonBody
from viewfinder.service.http.errors import ERROR_RESPONSES
from viewfinder.service.http.json_routes import JsonRoute
from viewfinder.service.http.keys import Visible, require_admin, require_whole_index
from viewfinder.service.http.routes.images import ADMIN_ONLY, MAX_URI_LENGTH
from viewfinder.service.http.routes.input_schemas import PIXEL, Base64File, named_value
from viewfinder.service.new_images import MAX_IMAGES, NewImage
from viewfinder.service.search_service import SearchService

MAX_TAGS = 1_000


class NewImageBody(JsonBody):
    """An image in a source of the index, or a new one, with its caption. What is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("uri", "image")
            ]
        }
    )

    uri: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=MAX_URI_LENGTH,
                description="Where the image is: an object in a source of the index.",
                examples=["s3://photos/2024/beach/0017.jpg"],
            ),
        ]
        | None
    ) = None
    image: Base64File | None = None
    caption: Annotated[str | None, Field(description="As in a captions file.")] = None
    tags: Annotated[list[str], Field(max_length=MAX_TAGS)] | None = None
    meta: Annotated[dict[str, Any] | None, Field(description="Further fields, which filters call `meta.NAME`.")] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        named_value(self, "uri", "image")
        return self

    def image_to_index(self) -> NewImage:
        return NewImage(self.uri, self.image, self.caption, self.tags, self.meta)


class ImagesBody(JsonBody):
    """The body of `POST /v1/images`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"images": [{"uri": "s3://photos/0017.jpg"}, {"image": PIXEL, "caption": "one pixel", "tags": ["new"]}]}
            ]
        }
    )

    index: IndexName | None = Field(None, description="The index to add them to.")
    images: Annotated[list[NewImageBody], Field(min_length=1, max_length=MAX_IMAGES, fail_fast=True)]


def router(service: SearchService) -> APIRouter:
    """The indexing route over one replica's service."""
    routes = APIRouter(tags=["images"], route_class=JsonRoute)

    @routes.post(
        "/v1/images",
        dependencies=[Depends(require_admin), Depends(require_whole_index)],
        responses={**ERROR_RESPONSES, **ADMIN_ONLY},
        summary="Index up to 64 images now: the next search finds them",
    )
    async def index(body: ImagesBody, request: Request, visible: Visible) -> IndexedImages:
        images = [each.image_to_index() for each in body.images]
        return await service.new_images.index(images, visible.of(body.index).follower, request.state.id)

    return routes
