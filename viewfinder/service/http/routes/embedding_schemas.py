"""The request bodies of the embedding routes, and the responses in OpenAI's format."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from viewfinder.query.fields import MAX_QUERY_TEXT, VISIBLE_PATTERN
from viewfinder.query.validation import JsonBody, visible_text

# Texts and images of one request together: one encoder call of this size does not delay others much.
MAX_INPUTS = 64

EmbedText = Annotated[
    str,
    Field(
        min_length=1, max_length=MAX_QUERY_TEXT, description="A text.", json_schema_extra={"pattern": VISIBLE_PATTERN}
    ),
    AfterValidator(visible_text),
]
Base64File = Annotated[
    str,
    Field(
        min_length=1,
        description="The content of an image file as base64, bare or as a `data:` URL.",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]
Texts = Annotated[list[EmbedText], Field(max_length=MAX_INPUTS)]
Base64Files = Annotated[list[Base64File], Field(max_length=MAX_INPUTS)]

# One grey pixel, so that the examples in /docs can be sent as they are.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


class EmbedRequest(JsonBody):
    """Texts and images to embed in one vector space."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a cat on the beach"], "images": [PIXEL]}]})

    texts: Texts = Field(default_factory=list)
    images: Base64Files = Field(default_factory=list)

    @model_validator(mode="after")
    def _some_but_not_too_many(self) -> "EmbedRequest":
        count = len(self.texts) + len(self.images)
        if not 1 <= count <= MAX_INPUTS:
            raise ValueError(f"texts and images together must be 1 to {MAX_INPUTS}, not {count}")
        return self


def _one_or_many(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
        raise ValueError(
            "token arrays come from another model's tokenizer; send the texts themselves "
            "(LangChain: check_embedding_ctx_length=False)"
        )
    return [value] if isinstance(value, str) else value


# The length is checked here, not after `_one_or_many`: then every text would be checked, and described, before it.
_SomeTexts = Annotated[list[EmbedText], Field(min_length=1, max_length=MAX_INPUTS)]


class OpenAIRequest(JsonBody):
    """The body of OpenAI's `POST /v1/embeddings`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "viewfinder", "input": ["a cat", "a dog"]}]})

    input: Annotated[
        _SomeTexts,
        BeforeValidator(_one_or_many, json_schema_input_type=EmbedText | _SomeTexts),
        Field(description="A text, or up to 64 of them."),
    ]
    model: str = Field(
        "viewfinder", description="Name or fingerprint of the live model (GET /v1/stats), or just `viewfinder`."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or base64 of them as little-endian float32."
    )
    dimensions: int | None = Field(None, ge=1, description="Must be the model's own dimension.")
    user: str | None = Field(None, description="Accepted for OpenAI's clients, and ignored.")


class OpenAIEmbedding(BaseModel):
    """One vector, in OpenAI's format."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Tokens read by the model, start and end marks included."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(BaseModel):
    """OpenAI's response; its clients ignore our field `warnings`."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage
    warnings: list[str] = Field(default_factory=list)


class RankRequest(JsonBody):
    """An image with the texts that may describe it, or a text with the images that it may describe."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": PIXEL, "texts": ["a cat", "a dog", "nothing at all"]}]},
    )

    image: Base64File | None = None
    texts: Texts | None = None
    text: EmbedText | None = None
    images: Base64Files | None = None

    @model_validator(mode="after")
    def _one_against_many(self) -> "RankRequest":
        given = {name for name in ("image", "texts", "text", "images") if getattr(self, name) is not None}
        if given not in ({"image", "texts"}, {"text", "images"}):
            raise ValueError("either `image` and `texts` must be given, or `text` and `images`")
        if not (self.texts or self.images):
            raise ValueError("there must be at least one candidate in `texts` or `images`")
        return self
