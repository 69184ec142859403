"""The tokens of a text that decide its vector; a tower need not read the others."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Every new length costs OpenVINO some 50 ms of compiling, so that long texts share lengths.
_EXACT = 16
_STEP = 8


@dataclass(frozen=True, slots=True)
class TextLength:
    """The rule of one text tower.

    CLIP's tower is causal and takes its vector at the end-of-text token, which has the highest id (`highest`) or the id
    `token` (`end`): tokens behind the last one in a batch change nothing, and a short query takes a third of the time.
    A Hugging Face tower masks its padding `token` (`padding`), so columns of padding can be dropped. SigLIP attends to
    the padding, and CoCa reads a token behind it: both get all tokens (`all`).
    """

    kind: Literal["highest", "end", "padding", "all"]
    token: int | None = None

    @property
    def has_ends(self) -> bool:
        """True if the tower is told the position of each text's last token."""
        return self.kind in ("highest", "end")

    def ends(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position [N] of each text's end-of-text token."""
        ends: NDArray[np.int64] = (tokens if self.kind == "highest" else tokens == self.token).argmax(axis=-1)
        return ends

    def cut(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the leading columns of token ids [N, context_length] that decide the vectors, and a few more."""
        if self.kind == "all":
            return tokens
        if self.has_ends:
            needed = int(self.ends(tokens).max()) + 1
        else:
            used = np.flatnonzero((tokens != self.token).any(axis=0))
            needed = int(used[-1]) + 1 if len(used) else 1
        return tokens[:, : needed if needed <= _EXACT else -(-needed // _STEP) * _STEP]
