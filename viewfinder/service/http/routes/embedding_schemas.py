"""The bodies of the embedding routes, as clients and /docs see them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from viewfinder.service.http.schemas import MAX_TEXT

# Texts and pictures of one request, together: what one call of the encoder takes without holding up the others.
MAX_INPUTS = 64

EmbedText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="A text in plain words.")]
Picture = Annotated[
    str,
    Field(
        min_length=1,
        description="The content of a picture's file as base64, bare or as a `data:` URL.",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]
Texts = Annotated[list[EmbedText], Field(max_length=MAX_INPUTS)]
Pictures = Annotated[list[Picture], Field(max_length=MAX_INPUTS)]

# The smallest picture that is one: a grey pixel, so that the examples of /docs can be sent as they stand.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


class EmbedRequest(BaseModel):
    """Texts and pictures to be turned into vectors of one space."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"texts": ["a cat on the beach"], "images": [PIXEL]}]}
    )

    texts: Texts = Field(default_factory=list)
    images: Pictures = Field(default_factory=list)

    @model_validator(mode="after")
    def _some_but_not_too_many(self) -> "EmbedRequest":
        count = len(self.texts) + len(self.images)
        if not 1 <= count <= MAX_INPUTS:
            raise ValueError(f"texts and images together must be 1 to {MAX_INPUTS}, not {count}")
        return self


class TextVector(BaseModel):
    """One text as the model sees it."""

    vector: list[float] = Field(description="Of unit length.")
    cut: int = Field(description="Tokens beyond the model's context, which the vector knows nothing of.")


class ImageVector(BaseModel):
    """One picture as the model sees it."""

    vector: list[float] = Field(description="Of unit length.")


class ModelAnswer(BaseModel):
    """What every answer of the embedding routes says about the model that gave it."""

    model: str = Field(description="Name of the model.")
    fingerprint: str = Field(description="Hash of all that defines its vector space: compare no vectors across two.")
    took_ms: float = Field(description="Time in the service, in milliseconds.")
    warnings: list[str] = Field(default_factory=list)


class EmbedResponse(ModelAnswer):
    """Vectors, in the order of the texts and pictures of the request."""

    dimension: int
    texts: list[TextVector]
    images: list[ImageVector]


def _one_or_many(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
        raise ValueError(
            "token arrays are those of another model's tokenizer; send the texts themselves "
            "(LangChain: check_embedding_ctx_length=False)"
        )
    return [value] if isinstance(value, str) else value


class OpenAIRequest(BaseModel):
    """The body of OpenAI's `POST /v1/embeddings`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "viewfinder", "input": ["a cat", "a dog"]}]}
    )

    input: Annotated[
        list[EmbedText],
        BeforeValidator(
            _one_or_many,
            json_schema_input_type=EmbedText | Annotated[list[EmbedText], Field(min_length=1, max_length=MAX_INPUTS)],
        ),
        Field(min_length=1, max_length=MAX_INPUTS, description="A text, or up to 64 of them."),
    ]
    model: str = Field(
        "viewfinder", description="Name or fingerprint of the live model (GET /v1/stats), or just `viewfinder`."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or base64 of them as little-endian float32."
    )
    dimensions: int | None = Field(None, ge=1, description="The model's own dimension; no other can be had.")
    user: str | None = Field(None, description="Taken for the sake of OpenAI's clients, and not looked at.")


class OpenAIEmbedding(BaseModel):
    """One vector, as OpenAI gives it."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Tokens that the model has read, marks of beginning and end included."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(BaseModel):
    """OpenAI's answer; `warnings` is ours, and its clients pass over it."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage
    warnings: list[str] = Field(default_factory=list)


class RankRequest(BaseModel):
    """Either a picture with the texts that may describe it, or a text with the pictures that it may describe."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"image": PIXEL, "texts": ["a cat", "a dog", "nothing at all"]}]},
    )

    image: Picture | None = None
    texts: Texts | None = None
    text: EmbedText | None = None
    images: Pictures | None = None

    @model_validator(mode="after")
    def _one_against_many(self) -> "RankRequest":
        given = {name for name in ("image", "texts", "text", "images") if getattr(self, name) is not None}
        if given not in ({"image", "texts"}, {"text", "images"}):
            raise ValueError("either `image` and `texts` must be given, or `text` and `images`")
        if not (self.texts or self.images):
            raise ValueError("there must be at least one candidate in `texts` or `images`")
        return self


class Candidate(BaseModel):
    """One candidate's place."""

    index: int = Field(description="Its position in the request, from 0.")
    text: str | None = Field(None, description="The text, where texts are the candidates.")
    score: float = Field(description="Cosine of text and picture.")
    logit: float = Field(description="What the model makes of the cosine: logit_scale x cosine + logit_bias.")
    probability: float = Field(description="Softmax of the logits over the candidates: they sum up to 1.")


class RankResponse(ModelAnswer):
    """The candidates, most probable first; equals in the order of the request.

    The probabilities compare the candidates with each other: where none fits, one is still the least bad. For a model
    that was trained with a sigmoid (SigLIP), `1 / (1 + exp(-logit))` is the probability of a pair by itself.
    """

    candidates: list[Candidate]
