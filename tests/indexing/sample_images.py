"""Images for buckets: small, cheap, and each different."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (48, 40), kind: str = "JPEG") -> bytes:
    """An encoded image of coloured blocks; the same seed, the same image."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def fill(bucket: Path, names: list[str], *, first_seed: int = 0) -> None:
    """Write one image for each name into a bucket's directory."""
    for seed, name in enumerate(names, start=first_seed):
        path = bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed))
