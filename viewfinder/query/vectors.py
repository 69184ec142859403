"""From what a query names - texts, pictures, points, numbers - to the one unit vector it is searched by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viewfinder.errors import ImageError
from viewfinder.query.language import language_warning
from viewfinder.query.query import Part, Query
from viewfinder.query.relevance import query_kind
from viewfinder.query.rounds import together
from viewfinder.service.generation.generation import Generation, Vector
from viewfinder.service.http.refusals import Refusal
from viewfinder.service.images.fetcher import AddressError
from viewfinder.service.images.query_images import Pictures, decode_base64
from viewfinder.store.schema import VectorName

# Texts of one encoder call.
_MAX_TEXTS = 64
# A sum this short has no direction left but that of rounding.
_LEAST_NORM = 1e-4


@dataclass(frozen=True)
class Composed:
    """A query's unit vector (float32 [D]), None where only words are looked for.

    `kind` is what the vector is one of, as relevance has it.
    """

    vector: Vector | None
    kind: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Points:
    """Vectors of points that queries name, and which vector of a point stands for it."""

    vectors: Mapping[str, Vector]
    kinds: Mapping[str, VectorName]


async def compose(
    queries: Sequence[Query], generation: Generation, pictures: Pictures, points: Points
) -> list[Composed]:
    """The vectors of all queries: their texts encoded as one batch, their pictures as another.

    Raises `Refusal`: what cannot be decoded, fetched or found, a vector of another dimension, a sum that is zero.
    """
    parts = [part for query in queries if query.rank != "words" for part in query.parts]
    texts = list(dict.fromkeys(str(part.value) for part in parts if part.kind == "text"))
    shown = list(dict.fromkeys(part for part in parts if part.kind in ("image", "image_url")))
    # One after the other: were they side by side, they would share the model's cores all the same.
    encoded = await _texts(texts, generation)
    seen = await _pictures(shown, generation, pictures)
    found: list[Composed] = []
    for query in queries:
        if query.rank == "words":
            found.append(Composed(None))
            continue
        total = np.zeros(generation.encoder.dimension, np.float64)
        warnings: list[str] = []
        for part in query.parts:
            if part.kind == "text":
                vector, cut = encoded[str(part.value)]
                warnings += _text_warnings(str(part.value), cut, generation)
            elif part.kind == "vector":
                vector = _given(part.value, generation)
            elif part.kind == "id":
                vector = points.vectors[str(part.value)]
            else:
                vector = seen[part]
            total += part.weight * np.asarray(vector, np.float64)
        found.append(Composed(_unit(total), query_kind(query, points.kinds), tuple(dict.fromkeys(warnings))))
    return found


async def _texts(texts: list[str], generation: Generation) -> dict[str, tuple[Vector, int]]:
    batches = [texts[start : start + _MAX_TEXTS] for start in range(0, len(texts), _MAX_TEXTS)]
    encoded = [await generation.encode_texts(batch) for batch in batches]
    return dict(zip(texts, (each for batch in encoded for each in batch), strict=True))


async def _pictures(parts: list[Part], generation: Generation, pictures: Pictures) -> dict[Part, Vector]:
    pixels = await together(*(_pixels(part, generation, pictures) for part in parts))
    vectors = await generation.encode_images(pixels)
    return dict(zip(parts, vectors, strict=True))


async def _pixels(part: Part, generation: Generation, pictures: Pictures) -> Any:
    try:
        if part.kind == "image_url":
            data = await pictures.fetch(str(part.value))
        else:
            data = part.value if isinstance(part.value, bytes) else decode_base64(str(part.value))
        return await pictures.pixels(data, generation.encoder.preprocess)
    except AddressError as error:
        hint = "Send the picture itself, as `image` or to POST /v1/search/image."
        raise Refusal(422, error.code, f"image_url: {error.message}", hint) from error
    except ImageError as error:
        if error.reason == "too_many_bytes":
            hint = "Send a smaller picture: the model sees few pixels."
            raise Refusal(413, "body_too_large", f"{part.kind}: {error.message}", hint) from error
        hint = "Send a picture that opens in a browser: JPEG, PNG, WebP, GIF, TIFF or BMP."
        raise Refusal(422, "invalid_image", f"{part.kind}: {error.message}", hint) from error


def _given(numbers: Any, generation: Generation) -> Vector:
    dimension = generation.encoder.dimension
    vector = np.asarray(numbers, np.float64)
    largest = float(np.abs(vector).max())
    if len(vector) == dimension and largest > 0:
        # The square of a large number may be infinite, and that of a small one zero.
        vector = vector / largest
        return (vector / np.linalg.norm(vector)).astype(np.float32)
    problem = f"{len(vector)} numbers" if len(vector) != dimension else "nothing but zeros"
    raise Refusal(
        422,
        "invalid_request",
        f"vector: it has {problem}; model {generation.model!r} makes vectors of {dimension} finite numbers.",
        "POST /v1/embed makes vectors of the model that is live.",
    )


def _unit(total: Any) -> Vector:
    norm = float(np.linalg.norm(total))
    if norm < _LEAST_NORM:
        raise Refusal(
            422,
            "invalid_request",
            "queries: the weighted vectors cancel each other out, so there is no direction left to search in.",
            "Change a weight, or take out what stands there twice.",
        )
    vector: Vector = (total / norm).astype(np.float32)
    return vector


def _text_warnings(text: str, cut: int, generation: Generation) -> list[str]:
    warnings = []
    if cut:
        context = generation.encoder.context_length
        warnings.append(
            f"The text is longer than the model reads: {cut} tokens beyond the first {context} were left out."
        )
    if warning := language_warning(text, generation.encoder.checkpoint.spec.languages):
        warnings.append(warning)
    return warnings
