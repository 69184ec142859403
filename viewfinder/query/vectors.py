"""Combines the parts of a query (texts, images, points, raw vectors) into one unit vector."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from viewfinder.errors import ImageError
from viewfinder.models.encoder import Encoder
from viewfinder.query.cursor import Vector
from viewfinder.query.errors import AddressError, QueryError, QueryImageError
from viewfinder.query.images import Pixels, QueryImages
from viewfinder.query.language import language_warning
from viewfinder.query.query import Query, QueryPart
from viewfinder.store.schema import VectorName

T = TypeVar("T")

# Maximum number of texts in one encoder call.
_TEXTS_PER_CALL = 64
# The direction of a shorter sum is rounding noise.
_MIN_NORM = 1e-4


class QueryEncoder(Protocol):
    """Encodes texts and images with `encoder`, possibly together with those of other queries."""

    @property
    def encoder(self) -> Encoder: ...

    async def encode_texts(self, texts: Sequence[str]) -> list[tuple[Vector, int]]:
        """The unit vector [D] of each text, and the number of tokens beyond the model's context."""
        ...

    async def encode_images(self, images: Sequence[Pixels]) -> list[Vector]:
        """The unit vectors [D] of images uint8 [S, S, 3], preprocessed by `encoder.preprocess`."""
        ...


class DirectEncoder:
    """A `QueryEncoder` that calls the encoder at once, in the calling thread; loaded on first use."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load

    @functools.cached_property
    def encoder(self) -> Encoder:
        return self._load()

    async def encode_texts(self, texts: Sequence[str]) -> list[tuple[Vector, int]]:
        if not texts:
            return []
        vectors, cut = self.encoder.encode_texts(list(texts))
        return [(vector, int(tokens)) for vector, tokens in zip(vectors, cut, strict=True)]

    async def encode_images(self, images: Sequence[Pixels]) -> list[Vector]:
        return list(self.encoder.encode_images(np.stack(images))) if images else []


@dataclass(frozen=True)
class Composed:
    """The unit vector of a query (float32 [D]); None if it searches by words only, or has no parts.

    `kind` is the kind of thing that the vector encodes, as in `query_kind`.
    """

    vector: Vector | None
    kind: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedPoints:
    """The vectors of points that queries name by id, and which vector of each point was taken."""

    vectors: Mapping[str, Vector]
    kinds: Mapping[str, VectorName]


async def compose(
    queries: Sequence[Query], encoder: QueryEncoder, images: QueryImages, points: NamedPoints
) -> list[Composed | QueryError]:
    """The vector of each query: their texts encoded as one batch, their images as another.

    In place of a vector there is the error of an image that cannot be decoded or fetched, a vector of another
    dimension, a text that the model encodes to nothing, or a sum of zero.
    """
    parts = [part for query in queries if not query.lacks_vector for part in query.parts]
    texts = list(dict.fromkeys(str(part.value) for part in parts if part.kind == "text"))
    # Equal images and addresses are fetched and encoded once, whatever their weights.
    shown = list(dict.fromkeys(replace(part, weight=1.0) for part in parts if part.kind in ("image", "image_url")))
    # One after the other: side by side they would share the same cores.
    encoded_texts = await _encode_texts(texts, encoder)
    encoded_images = await _encode_images(shown, encoder, images)
    return [
        Composed(None)
        if query.lacks_vector
        else _compose(query, encoded_texts, encoded_images, points, encoder.encoder)
        for query in queries
    ]


def query_kind(query: Query, ids: Mapping[str, VectorName]) -> str | None:
    """The kind of thing that the query's vector encodes: `text`, `image`, or None.

    None for sums, whose cosines are higher than those of single texts and images (that of a random image is above 71 %
    of unrelated pairs with the sum of two images), and for raw numbers. `ids` maps the id of a point to the vector that
    was taken of it: the caption of a point without an image is a text.
    """
    parts = {(part.kind, part.value) for part in query.parts if part.weight != 0}
    if len(parts) != 1 or sum(part.weight for part in query.parts) <= 0:
        return None
    ((kind, value),) = parts
    if kind == "id":
        return "text" if ids.get(str(value)) == "caption" else "image"
    return {"text": "text", "image": "image", "image_url": "image"}.get(kind)


def check_finite(vector: Vector, field: str, encoder: Encoder) -> None:
    """Raise `QueryError` for a vector that the model made of `field` and that no cosine can be taken of."""
    if not np.isfinite(vector).all():
        raise QueryError(
            f"{field}: model {encoder.checkpoint.name!r} encodes it to a vector that is not finite.",
            "Change it. If others fail too, the model is damaged or its precision too low (VIEWFINDER_PRECISION).",
        )


async def gather_or_cancel(*work: Coroutine[Any, Any, T]) -> list[T]:
    """All results; on the first error the rest is cancelled."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _encode_texts(texts: list[str], encoder: QueryEncoder) -> dict[str, tuple[Vector, int]]:
    batches = [texts[start : start + _TEXTS_PER_CALL] for start in range(0, len(texts), _TEXTS_PER_CALL)]
    encoded = [await encoder.encode_texts(batch) for batch in batches]
    return dict(zip(texts, (each for batch in encoded for each in batch), strict=True))


async def _encode_images(
    parts: list[QueryPart], encoder: QueryEncoder, images: QueryImages
) -> dict[QueryPart, Vector | QueryError]:
    pixels = await gather_or_cancel(*(_part_pixels(part, encoder.encoder, images) for part in parts))
    decoded = [each for each in pixels if not isinstance(each, QueryError)]
    vectors = iter(await encoder.encode_images(decoded))
    return {
        part: each if isinstance(each, QueryError) else next(vectors) for part, each in zip(parts, pixels, strict=True)
    }


async def _part_pixels(part: QueryPart, encoder: Encoder, images: QueryImages) -> Pixels | QueryError:
    try:
        if part.kind == "image_url":
            return await images.pixels_at(str(part.value), encoder.preprocess)
        data = part.value if isinstance(part.value, bytes) else str(part.value)
        return await images.pixels(data, encoder.preprocess)
    except (AddressError, ImageError) as error:
        return QueryImageError.of(part.kind, error)


def _compose(
    query: Query,
    texts: Mapping[str, tuple[Vector, int]],
    images: Mapping[QueryPart, Vector | QueryError],
    points: NamedPoints,
    encoder: Encoder,
) -> Composed | QueryError:
    total = np.zeros(encoder.dimension, np.float64)
    warnings: list[str] = []
    try:
        for part in query.parts:
            vector: Any
            if part.kind == "text":
                vector, cut = texts[str(part.value)]
                warnings += _text_warnings(str(part.value), cut, encoder)
            elif part.kind == "vector":
                vector = _normalized(part.value, encoder)
            elif part.kind == "id":
                vector = points.vectors[str(part.value)]
            elif isinstance(vector := images[replace(part, weight=1.0)], QueryError):
                return vector
            check_finite(vector, part.kind, encoder)
            total += part.weight * np.asarray(vector, np.float64)
        return Composed(_unit_sum(total), query_kind(query, points.kinds), tuple(dict.fromkeys(warnings)))
    except QueryError as error:
        return error


def _normalized(numbers: Any, encoder: Encoder) -> Vector:
    vector = np.asarray(numbers, np.float64)
    largest = float(np.abs(vector).max())
    if len(vector) == encoder.dimension and largest > 0:
        # Scaled first: the square of a large number may be infinite, and that of a small one zero.
        vector = vector / largest
        return (vector / np.linalg.norm(vector)).astype(np.float32)
    problem = f"{len(vector)} numbers" if len(vector) != encoder.dimension else "only zeros"
    raise QueryError(
        f"vector: it has {problem}; model {encoder.checkpoint.name!r} makes vectors of {encoder.dimension} finite "
        "numbers.",
        "Use a vector that this model has made.",
    )


def _unit_sum(total: Any) -> Vector:
    norm = float(np.linalg.norm(total))
    if norm < _MIN_NORM:
        raise QueryError(
            "queries: the weighted vectors cancel each other out, leaving no direction to search in.",
            "Change a weight, or remove a part that is given twice.",
        )
    vector: Vector = (total / norm).astype(np.float32)
    return vector


def _text_warnings(text: str, cut: int, encoder: Encoder) -> list[str]:
    warnings = []
    if cut:
        warnings.append(
            f"The text is longer than the model reads: {cut} tokens beyond the first {encoder.context_length} were "
            "left out."
        )
    if warning := language_warning(text, encoder.checkpoint.spec.languages):
        warnings.append(warning)
    return warnings
