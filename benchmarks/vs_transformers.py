"""Texts and images to vectors: Hugging Face Transformers' CLIPModel against ours, same weights and threads."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.bucket import WEB, kept_photograph
from benchmarks.harness import Measurement, WrongAnswerError
from benchmarks.ratio import in_turn
from benchmarks.text_encode import OTHERS, QUERY, REPLICA_THREADS
from benchmarks.transformers_clip import convert
from benchmarks.vit import exported, model_name, scratch, torch_threads, vit_checkpoint
from viewfinder.arrays import Vectors
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.encoder import Encoder

MAXIMUM_DIFFERENCE = 1e-5
IMAGES = 8


@dataclass(frozen=True)
class Opponent:
    """Transformers' model with the methods of our encoder."""

    encode_texts: Callable[[list[str]], Vectors]
    encode_images: Callable[[NDArray[np.uint8]], Vectors]


def measure_texts(quick: bool) -> Measurement:
    """Transformers' time ÷ ours for one short query, tokenizing included on both sides."""
    ours, theirs = _ours(quick), _opponent(quick)
    texts = [QUERY, *OTHERS]
    difference = max(float(np.abs(theirs.encode_texts([text]) - ours.encode_texts([text])[0]).max()) for text in texts)
    return _measured(
        "text_vs_transformers",
        lambda: theirs.encode_texts([QUERY]),
        lambda: ours.encode_texts([QUERY]),
        difference,
        f"query {QUERY!r}, {model_name(quick)}",
        rounds=2 if quick else 40,
    )


def measure_images(quick: bool) -> Measurement:
    """Transformers' time ÷ ours for decoded images of the model's size, normalisation included on both sides."""
    ours, theirs = _ours(quick), _opponent(quick)
    limits = ImageLimits(max_bytes=10**9, max_pixels=10**9)
    files = [kept_photograph(seed, *WEB[0]) for seed in range(2 if quick else IMAGES)]
    pixels = np.stack([decode(path.read_bytes(), ours.preprocess, limits).pixels for path in files])
    difference = float(np.abs(theirs.encode_images(pixels) - ours.encode_images(pixels)).max())
    return _measured(
        "images_vs_transformers",
        lambda: theirs.encode_images(pixels),
        lambda: ours.encode_images(pixels),
        difference,
        f"{len(pixels)} images of {ours.preprocess.size} pixels in a batch, {model_name(quick)}",
        rounds=1 if quick else 9,
    )


def _measured(
    name: str, first: Callable[[], object], second: Callable[[], object], difference: float, what: str, *, rounds: int
) -> Measurement:
    if not difference <= MAXIMUM_DIFFERENCE:  # `not <=`, because NaN compares false
        raise WrongAnswerError(f"the vectors differ by {difference:.1e}; {MAXIMUM_DIFFERENCE:.0e} is allowed")
    with torch_threads(REPLICA_THREADS):
        ratio = in_turn(name, first, second, rounds=rounds)
    return Measurement(
        ratio.value,
        f"Transformers {ratio.first_ms:.1f} ms, viewfinder {ratio.second_ms:.1f} ms ({ratio}); {what}, float32, "
        f"{REPLICA_THREADS} thread each; largest difference of the vectors {difference:.1e}",
    )


@functools.lru_cache(maxsize=1)
def _ours(quick: bool) -> Encoder:
    return exported(quick, threads=REPLICA_THREADS, precision="float32")


@functools.lru_cache(maxsize=1)
def _opponent(quick: bool) -> Opponent:
    """As in the documentation of Hugging Face's CLIP."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    directory = convert(vit_checkpoint(quick), scratch() / f"transformers-{quick}")
    model, processor = CLIPModel.from_pretrained(directory).eval(), CLIPProcessor.from_pretrained(directory)

    def unit(features: Any) -> Vectors:
        tensor = getattr(features, "pooler_output", features)  # since transformers 5 an object with more fields
        vectors: Vectors = torch.nn.functional.normalize(tensor, dim=-1).numpy()
        return vectors

    def encode_texts(texts: list[str]) -> Vectors:
        tokens = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            return unit(model.get_text_features(**tokens))

    def encode_images(pixels: NDArray[np.uint8]) -> Vectors:
        images = processor(images=[Image.fromarray(each) for each in pixels], return_tensors="pt")
        with torch.inference_mode():
            return unit(model.get_image_features(**images))

    return Opponent(encode_texts, encode_images)
