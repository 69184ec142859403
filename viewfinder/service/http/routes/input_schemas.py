"""The fields for texts and images in the bodies of the embedding and ranking routes."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from viewfinder.query.fields import MAX_QUERY_TEXT, VISIBLE_PATTERN, Id, ImageUrl
from viewfinder.query.validation import JsonBody, refuse, visible_text
from viewfinder.service.inputs import MAX_INPUTS, MAX_LARGE_INPUTS, Input

MAX_IMAGE_URL = 2048
_TEXT = Field(
    min_length=1, max_length=MAX_QUERY_TEXT, description="A text.", json_schema_extra={"pattern": VISIBLE_PATTERN}
)
_BASE64 = Field(
    min_length=1,
    description="The content of an image file as base64, bare or as a `data:` URL.",
    json_schema_extra={"contentEncoding": "base64"},
)

EmbedText = Annotated[str, _TEXT, AfterValidator(visible_text)]
# Without the check for visible characters, which takes too long for thousands of texts: `encode_inputs` does it.
LargeText = Annotated[str, _TEXT]
Base64File = Annotated[str, _BASE64]
Texts = Annotated[list[EmbedText], Field(max_length=MAX_INPUTS)]
Base64Files = Annotated[list[Base64File], Field(max_length=MAX_INPUTS)]

# One grey pixel, so that the examples in /docs can be sent as they are.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


def _one_of(*names: str) -> dict[str, Any]:
    given = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
    return {"oneOf": given}


class ImagePart(JsonBody):
    """An image: its content, its URL, or the id of an indexed image."""

    model_config = ConfigDict(json_schema_extra=_one_of("image", "image_url", "id"))

    image: Base64File | None = None
    image_url: ImageUrl | None = None
    id: Id | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        named_value(self, "image", "image_url", "id")
        return self

    def input(self, place: str) -> Input:
        name: Any
        name, value = named_value(self, "image", "image_url", "id")
        return Input(place, name, value)


def _inner_url(value: Any) -> Any:
    """The URL of OpenAI's object around it, whose `detail` no model here needs."""
    if isinstance(value, dict) and set(value) <= {"url", "detail"}:
        return value.get("url")
    return value


_AnyImage = Annotated[
    str,
    Field(
        min_length=1,
        description="An image as base64 or as a `data:` URL; or its public http(s) URL, if the service may fetch URLs.",
    ),
]


class _UrlObject(JsonBody):
    """A URL as in OpenAI's messages."""

    url: _AnyImage
    detail: str | None = Field(None, description="Ignored.")


class InputPart(JsonBody):
    """A text or an image as in Jina's inputs (`text`, `image`) or OpenAI's messages (`image_url`), or an id."""

    model_config = ConfigDict(json_schema_extra=_one_of("text", "image", "image_url", "id"))

    type: Literal["text", "image_url"] | None = Field(None, description="Not needed.")
    text: LargeText | None = None
    image: _AnyImage | None = None
    image_url: (
        Annotated[_AnyImage, BeforeValidator(_inner_url, json_schema_input_type=_AnyImage | _UrlObject)] | None
    ) = None
    id: Id | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        name, value = named_value(self, "text", "image", "image_url", "id")
        if name in ("image", "image_url") and _is_url(value) and len(value) > MAX_IMAGE_URL:
            refuse(
                "a URL of {length} characters is too long; the maximum is {maximum}.",
                length=len(value),
                maximum=MAX_IMAGE_URL,
            )
        return self

    def input(self, place: str) -> Input:
        name: Any
        name, value = named_value(self, "text", "image", "image_url", "id")
        kind = name
        if name in ("image", "image_url"):
            kind = "image_url" if _is_url(value) else "image"
        return Input(place, kind, value)


def named_value(body: JsonBody, *names: str) -> tuple[str, str]:
    """The one field of these that is given, with its value."""
    given = [(name, value) for name in names if (value := getattr(body, name)) is not None]
    if len(given) != 1:
        refuse(
            "give exactly one of {known}, not {given}.",
            known=", ".join(names),
            given=" and ".join(name for name, _ in given) or "none",
        )
    return given[0]


def as_part(value: Any) -> Any:
    """A bare string as an object: a text, or an image if it is a `data:` URL of one."""
    if isinstance(value, str):
        return {"image" if value[:11].lower() == "data:image/" else "text": value}
    return value


def as_list(value: Any) -> Any:
    """A single text or image as a list of one. Refuses token arrays."""
    if isinstance(value, list) and any(isinstance(each, int | list) for each in value[:MAX_LARGE_INPUTS]):
        refuse(
            "token arrays come from another model's tokenizer; send the texts themselves "
            "(LangChain: check_embedding_ctx_length=False)."
        )
    return [value] if isinstance(value, str | dict) else value


AnyInput = Annotated[InputPart, BeforeValidator(as_part, json_schema_input_type=LargeText | InputPart)]
SomeInputs = Annotated[list[AnyInput], Field(min_length=1, max_length=MAX_LARGE_INPUTS, fail_fast=True)]


def check_images(field: str, parts: Sequence[InputPart]) -> None:
    """Refuse more images than one request may have."""
    images = sum(each.text is None and each.id is None for each in parts)
    if images > MAX_INPUTS:
        refuse(
            "{field}: one request takes up to {maximum} images, not {images}.",
            field=field,
            maximum=MAX_INPUTS,
            images=images,
        )


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))
