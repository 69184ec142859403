"""The protocol of a runtime: the library that computes a model's two towers."""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors

RuntimeName = Literal["auto", "torch", "openvino"]
TowerName = Literal["text", "image"]
TOWERS: tuple[TowerName, ...] = ("text", "image")


class Runtime(Protocol):
    """Both towers of one model on one device. Threads may share it."""

    @property
    def name(self) -> str:
        """The library: "torch" or "openvino"."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def is_complete(self) -> bool:
        """False while a tower is not loaded; it is when it is first used."""
        ...

    @property
    def precision(self) -> str:
        """The number format of the computation."""
        ...

    @property
    def logit_scale(self) -> float:
        """The model's own logits are logit_scale * cosine + logit_bias."""
        ...

    @property
    def logit_bias(self) -> float: ...

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        """Return the features float32 [N, D], of any length, of images uint8 [N, size, size, 3]; N is not 0."""
        ...

    def encode_tokens(self, tokens: NDArray[np.int64]) -> Vectors:
        """Return the features float32 [N, D], of any length, of token ids [N, context_length]; N is not 0."""
        ...
