"""Small, cheap, different images for the buckets of tests."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fixtures.indexing import World


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


def write_captions(world: World, name: str, **texts: str) -> str:
    """Write a captions file into the bucket, a text for each key without its suffix and after `_`; return its URI."""
    path = world.bucket / name
    path.write_text(json.dumps({f"{key[1:]}.jpg": text for key, text in texts.items()}))
    return f"{world.source}/{name}"


def counts(**given: int) -> dict[str, int]:
    """The counts of a run; those not given are 0."""
    return dict.fromkeys(("listed", "unchanged", "indexed", "skipped", "failed", "pruned"), 0) | given
