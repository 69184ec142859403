"""Texts and images that show whether two runtimes compute the same vectors."""

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors

# Minimum cosine of the vectors of two runtimes.
SAME_COSINE = 0.999

# The first one is encoded each time an export is opened.
TEXTS = (
    "a photo of two dogs",
    "",
    "red",
    "a woman in a yellow raincoat rides a bicycle over a bridge, in the rain, seen from above",
    "一只猫在窗台上 🐈",
    "A man's hat & <b>nothing</b> else: 3,000 pieces!",
    "many words " * 100,
)


def images(size: int) -> NDArray[np.uint8]:
    """Return images uint8 [N, size, size, 3]: noise, black, white, and one with smooth colours."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    rows, columns = np.mgrid[0:size, 0:size] / size
    smooth = np.stack([rows * 255, columns * 255, 128 + 100 * np.sin(6 * columns)], -1).astype(np.uint8)
    return np.stack([smooth, noise, np.zeros_like(noise), np.full_like(noise, 255)])


def lowest_cosine(some: Vectors, others: Vectors) -> float:
    """Return the lowest cosine of two rows of features [N, D]; NaN if a number is not finite."""
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float(((some * others).sum(axis=1) / lengths).min())
