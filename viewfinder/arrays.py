"""Types of the arrays that hold many vectors."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One vector per row, [N, D], or a single one, [D]."""

Mask = NDArray[np.bool_]
"""One flag per row, [N]."""
