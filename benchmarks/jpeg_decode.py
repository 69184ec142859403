"""Decode photographs of 12 megapixels: Pillow with open_clip's transform against ours, on one core."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.bucket import QUALITY, photograph
from benchmarks.harness import Measurement, WrongAnswerError
from benchmarks.ratio import in_turn
from benchmarks.vit import model_name, vit_checkpoint
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits, Preprocess, decode
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings

WIDTH, HEIGHT = 4000, 3000
MINIMUM_COSINE = 0.99

Pixels = NDArray[np.uint8]


def measure(quick: bool) -> Measurement:
    """Plain Pillow's time ÷ that of a job's decoder process; raise `WrongAnswerError` if embeddings differ."""
    width, height = (WIDTH // 4, HEIGHT // 4) if quick else (WIDTH, HEIGHT)
    files = [photograph(seed, width, height) for seed in range(2 if quick else 4)]
    sharp = photograph(0, width, height, blur_pixels=0)
    encoder = Encoder.load(vit_checkpoint(quick), device="cpu", precision="float32")
    limits = ImageLimits(_default("max_image_bytes"), _default("max_image_pixels"))
    plain = _plain(encoder.preprocess)

    with Decoder(
        encoder.preprocess,
        limits,
        timeout_s=_default("decode_timeout_s"),
        memory_bytes=_default("decode_memory_bytes"),
    ) as decoder:
        theirs = np.stack([plain(data) for data in files])
        ours = np.stack([decoder.decode(data).pixels for data in files])
        vectors, ours_vectors = encoder.encode_images(theirs), encoder.encode_images(ours)
        cosine = float((vectors * ours_vectors).sum(axis=1).min())
        if not cosine >= MINIMUM_COSINE:  # `not >=`, because NaN compares false
            raise WrongAnswerError(f"the embeddings' cosine falls to {cosine:.4f}; {MINIMUM_COSINE} is needed")
        ratio = in_turn(
            "jpeg_decode_12mp",
            lambda: [plain(data) for data in files],
            lambda: [decoder.decode(data) for data in files],
            rounds=1 if quick else 9,
        )
        hard = in_turn(
            "jpeg_decode_12mp, without blur",
            lambda: plain(sharp),
            lambda: decoder.decode(sharp),
            rounds=1 if quick else 5,
        )
    inside = in_turn(
        "jpeg_decode_12mp, in process",
        lambda: [plain(data) for data in files],
        lambda: [decode(data, encoder.preprocess, limits) for data in files],
        rounds=1 if quick else 5,
    )

    apart = float((vectors @ vectors.T)[~np.eye(len(files), dtype=bool)].max())
    difference = float(np.abs(theirs.astype(np.float32) - ours).mean())
    megabytes = float(np.mean([len(data) for data in files])) / 1e6
    return Measurement(
        ratio.value,
        f"{_per_second(len(files), ratio.first_ms)} and {_per_second(len(files), ratio.second_ms)} images/s "
        f"({ratio}), the second in a decoder process as in a job (called in process: {inside.value:.2f}); "
        f"{len(files)} generated JPEGs of {width} x {height}, quality {QUALITY}, {megabytes:.1f} MB each, to "
        f"{encoder.preprocess.size} pixels; {hard.value:.2f} for one without blur of {len(sharp) / 1e6:.1f} MB; "
        f"minimum embedding cosine {cosine:.5f} with {model_name(quick)} (different images: up to {apart:.3f}), "
        f"pixels differ by {difference:.2f} of 255 on average",
    )


def _plain(preprocess: Preprocess) -> Callable[[bytes], Pixels]:
    """open_clip's transform without the conversion to floats, which our encoder does."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(size=preprocess.size), is_train=False)
    to_pixels = transform.transforms[:-2]

    def read(data: bytes) -> Pixels:
        image = Image.open(io.BytesIO(data))
        for step in to_pixels:
            image = step(image)
        return np.asarray(image)

    return read


def _default(name: str) -> int:
    default: int = Settings.model_fields[name].default
    return default


def _per_second(count: int, milliseconds: float) -> str:
    return f"{count / milliseconds * 1000:.1f}"
