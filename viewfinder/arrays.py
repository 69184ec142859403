"""Types of the arrays that hold many vectors."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One vector per row, [N, D], or a single one, [D]."""

Mask = NDArray[np.bool_]
"""One flag per row, [N]."""

# The vectors of images and texts have length 1.
_MIN_LENGTH = 1e-6


def have_direction(vectors: Vectors) -> Mask:
    """Return for each row of [N, D] if its cosines are defined: finite numbers, and a length that is not 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    usable: Mask = np.isfinite(lengths) & (lengths > _MIN_LENGTH)
    return usable
