"""Small, cheap, different images for the buckets of tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encoded_image(seed: int, size: tuple[int, int] = (48, 40), kind: str = "JPEG") -> bytes:
    """Return an encoded image of coloured blocks; equal seeds give equal images."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def fill(bucket: Path, names: list[str], *, first_seed: int = 0) -> None:
    """Write one image for each name into a bucket's directory."""
    for seed, name in enumerate(names, start=first_seed):
        path = bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(seed))
