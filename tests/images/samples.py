"""Images to decode, and shorthands for decoding them."""

import contextlib
import io
import random
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from viewfinder.errors import ImageError
from viewfinder.images.decoding import ImageLimits, Preprocess, decode

SIZE = 32
SMALL = Preprocess(SIZE)
LIMITS = ImageLimits(max_bytes=50_000_000, max_pixels=50_000_000)
RED, GREEN, BLUE, WHITE, BLACK = (220, 30, 40), (20, 180, 60), (30, 50, 200), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Return an image with coarse and fine texture, edges and grain, like a photograph."""
    generator = np.random.default_rng(seed)
    layers = generator.normal(128, 4, (height, width, 3))
    for cell in (4, 16, 64, 256):
        noise = generator.normal(size=(height // cell + 2, width // cell + 2, 3)) * 6 * cell**0.4
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel].astype(np.float32))
            layers[..., channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    image = Image.fromarray(layers.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        left, top, extent = (int(generator.integers(1, side + 2)) for side in (width, height, min(width, height) // 3))
        colour = tuple(int(value) for value in generator.integers(0, 255, 3))
        if extent % 2:
            draw.ellipse((left, top, left + extent, top + extent // 2), fill=colour)
        else:
            draw.line((left, top, left + extent, top + extent), fill=colour, width=2)
    return image


def quadrants(width: int = 80, height: int = 60) -> Image.Image:
    """Return red, green over blue, white: different in each of the eight orientations."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def pixels(data: bytes, preprocess: Preprocess = SMALL) -> NDArray[np.int16]:
    return decode(data, preprocess, LIMITS).pixels.astype(np.int16)


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, SMALL, limits)
    assert caught.value.permanent
    assert caught.value.message
    return caught.value.reason


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (40, 40), colour)


def damaged_files(count_per_format: int) -> list[tuple[str, bytes]]:
    """Return files of every format that Pillow writes: bits flipped, truncated, or joined with another file."""
    generator = random.Random(20)
    whole: dict[str, bytes] = {}
    Image.init()
    for format_name in sorted(Image.SAVE):
        for mode in ("1", "L", "P", "RGB"):
            with contextlib.suppress(OSError, ValueError, KeyError), warnings.catch_warnings(action="ignore"):
                whole[format_name] = encoded(quadrants(40, 30).convert(mode), format_name)
    files = []
    for (name, data), (_, other) in pairwise([*whole.items(), *list(whole.items())[:1]]):
        for _ in range(count_per_format):
            broken = bytearray(data)
            match generator.randrange(4):
                case 0:
                    for _ in range(generator.randint(1, 8)):
                        broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
                case 1:
                    for _ in range(generator.randint(1, 4)):  # most faults of the plugins are in headers
                        broken[generator.randrange(min(len(broken), 100))] = generator.randrange(256)
                case 2:
                    del broken[generator.randrange(len(broken)) :]
                case _:
                    cut = generator.randrange(len(broken))
                    broken[cut:] = other[generator.randrange(len(other)) :]
            files.append((name, bytes(broken)))
    return files


def outcome(data: bytes) -> str:
    try:
        decode(data, SMALL, ImageLimits(10**7, 10**6))
    except ImageError as error:
        return error.reason
    return "decoded"
