"""Encodes the texts, images, URLs and ids of one request, for the routes that answer with vectors or rankings."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from viewfinder.client.requests import is_blank
from viewfinder.errors import ImageError
from viewfinder.models.encoder import Encoder
from viewfinder.query.cursor import Vector
from viewfinder.query.errors import AddressError, QueryError, QueryImageError, UnknownImageError
from viewfinder.query.images import OverloadedError, Pixels
from viewfinder.query.language import language_warning
from viewfinder.query.vectors import check_finite, gather_or_cancel
from viewfinder.service.generation.generation import Generation
from viewfinder.service.search_service import SearchService
from viewfinder.store.conditions import KeyFilter
from viewfinder.store.schema import VECTOR_NAMES
from viewfinder.store.shown import show

# Texts and images of one request together: one encoder call of this size does not delay others much. Also the number of
# texts that are checked at once.
MAX_INPUTS = 64
# Texts of one request to the routes of OpenAI's and Cohere's clients, which are encoded in several calls.
MAX_LARGE_INPUTS = 2_048
# Inputs of all requests with more than `MAX_INPUTS` in one replica, until they are answered: their texts and vectors
# take up to 300 MB.
MAX_INPUTS_IN_FLIGHT = 16 * MAX_LARGE_INPUTS


@dataclass(frozen=True)
class Input:
    """One thing to encode; `place` is its field in the request, for messages."""

    place: str
    kind: Literal["text", "image", "image_url", "id"]
    value: str


@dataclass(frozen=True)
class Encoded:
    """The unit vector [D] of an input, of a text or of an image.

    `tokens` is the number that the model reads of a text, if they were counted; `cut` the number beyond its context.
    """

    vector: Vector
    is_text: bool
    tokens: int = 0
    cut: int = 0
    warnings: tuple[str, ...] = ()


async def encode_inputs(
    service: SearchService,
    generation: Generation,
    inputs: Sequence[Input],
    within: KeyFilter,
    *,
    count_tokens: bool = False,
) -> list[Encoded]:
    """The vectors of the inputs, in their order; with `count_tokens` also the tokens of texts.

    Ids are those of images that match `within`, the filter of the API key.

    The error of an input that cannot be encoded names its place: a `QueryError`, or an `OverloadedError` if too many
    images wait. A request that is cancelled stops after the current batch.
    """
    kinds = ("text",), ("image", "image_url"), ("id",)
    texts, images, ids = ([each for each in inputs if each.kind in kind] for kind in kinds)
    found: dict[str, Encoded] = {}
    encoded = await gather_or_cancel(
        _encode_text_inputs(service, generation, texts, count_tokens=count_tokens),
        _encode_image_inputs(service, generation, images),
        _read_vectors(service, generation, ids, within),
    )
    for each in encoded:
        found |= each
    return [found[each.place] for each in inputs]


class InputBudget:
    """The inputs of large requests that a replica is working on, or whose answers it still sends."""

    def __init__(self, maximum: int = MAX_INPUTS_IN_FLIGHT) -> None:
        self._maximum = maximum
        self._taken = 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Count the inputs of one request while the block runs; raises `OverloadedError`."""
        counted = count if count > MAX_INPUTS else 0
        if counted and self._taken + counted > self._maximum:
            raise OverloadedError(f"{self._taken:,} inputs of large requests are already being encoded or sent.")
        self._taken += counted
        try:
            yield
        finally:
            self._taken -= counted


def cosines(query: Encoded, others: Sequence[Encoded]) -> npt.NDArray[np.float64]:
    """The cosine of the query and each of the others, [N]."""
    vector = query.vector.astype(np.float64)
    # Not a matrix product: BLAS rounds rows by position, and equal rows would differ.
    # Vectors are of unit length to within the precision of float32.
    return np.array([(vector * each.vector).sum() for each in others]).clip(-1, 1)


def warnings_of(encoded: Iterable[Encoded]) -> tuple[str, ...]:
    return tuple(warning for each in encoded for warning in each.warnings)


async def _encode_text_inputs(
    service: SearchService, generation: Generation, texts: Sequence[Input], *, count_tokens: bool
) -> dict[str, Encoded]:
    encoder = generation.encoder
    warnings: list[list[str]] = []
    for start in range(0, len(texts), MAX_INPUTS):
        part = texts[start : start + MAX_INPUTS]
        warnings += await service.in_thread(_check_texts, encoder, part, languages=start == 0)
    vectors = await generation.encode_texts([each.value for each in texts])
    tokens = [encoder.context_length] * len(texts)
    # Only texts that were not cut: their tokens are few.
    whole = [index for index, (_, cut) in enumerate(vectors) if not cut] if count_tokens else []
    for start in range(0, len(whole), MAX_INPUTS):
        part_of_whole = whole[start : start + MAX_INPUTS]
        counts = await service.in_thread(encoder.count_tokens, [texts[index].value for index in part_of_whole])
        for index, count in zip(part_of_whole, counts, strict=True):
            tokens[index] = count
    found = {}
    for each, said, (vector, cut), count in zip(texts, warnings, vectors, tokens, strict=True):
        check_finite(vector, each.place, encoder)
        if cut:
            said.append(
                f"{_name(each)} is longer than the model reads: {cut} tokens beyond the first "
                f"{encoder.context_length} were left out."
            )
        found[each.place] = Encoded(vector, is_text=True, tokens=count, cut=cut, warnings=tuple(said))
    return found


def _check_texts(encoder: Encoder, texts: Sequence[Input], *, languages: bool) -> list[list[str]]:
    """The warnings for each text, about its language if asked for; raises `QueryError` for a blank one.

    In a thread: a text of thousands of spaces takes half a millisecond, recognizing a language up to two.
    """
    for each in texts:
        if is_blank(each.value):
            raise QueryError(f"{each.place}: the text {show(each.value)} has no visible character.", "Leave it out.")
    known = encoder.checkpoint.spec.languages
    found = [language_warning(each.value, known) if languages else None for each in texts]
    return [[f"{_name(each)}: {warning}"] if warning else [] for each, warning in zip(texts, found, strict=True)]


def _name(text: Input) -> str:
    number = text.place.rpartition(".")[2]
    return f"Text {number}" if number.isdigit() else "The text"


async def _encode_image_inputs(
    service: SearchService, generation: Generation, images: Sequence[Input]
) -> dict[str, Encoded]:
    # Equal URLs are fetched once.
    first: dict[str, Input] = {}
    for each in images:
        first.setdefault(_image_key(each), each)
    tasks = [asyncio.create_task(_pixels(service, generation, each)) for each in first.values()]
    try:
        # In order, so that the error is that of the first unusable image. The others need not be decoded then.
        pixels = [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    vectors = dict(zip(first, await generation.encode_images(pixels), strict=True))
    found = {}
    for each in images:
        vector = vectors[_image_key(each)]
        check_finite(vector, each.place, generation.encoder)
        found[each.place] = Encoded(vector, is_text=False)
    return found


def _image_key(image: Input) -> str:
    # Not the content of an image: the hash of 20 MB takes 20 ms.
    return image.value if image.kind == "image_url" else image.place


async def _pixels(service: SearchService, generation: Generation, image: Input) -> Pixels:
    try:
        if image.kind == "image_url":
            return await service.images.pixels_at(image.value, generation.encoder.preprocess)
        return await service.images.pixels(image.value, generation.encoder.preprocess)
    except (AddressError, ImageError) as error:
        raise QueryImageError.of(image.place, error) from error


async def _read_vectors(
    service: SearchService, generation: Generation, ids: Sequence[Input], within: KeyFilter
) -> dict[str, Encoded]:
    """The stored vectors: of the image, or of the caption of a point without an image."""
    found: dict[str, Encoded] = {}
    for name in VECTOR_NAMES:
        missing = [each for each in ids if each.place not in found]
        if missing:
            stored = await service.in_thread(
                service.store.points.vectors,
                generation.collection,
                [each.value for each in missing],
                name,
                within=within,
            )
            found |= {
                each.place: Encoded(stored[each.value], is_text=name == "caption")
                for each in missing
                if each.value in stored
            }
    for each in ids:
        if each.place not in found:
            raise UnknownImageError(each.value, each.place)
    return found
