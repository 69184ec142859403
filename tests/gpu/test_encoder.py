"""The encoder on a CUDA device compared with the same encoder on the CPU."""

import numpy as np
import pytest

from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: run `pytest -m gpu` where there is one")


@pytest.mark.parametrize("precision", ["auto", "float32", "float16"])
def test_images_and_texts_have_the_same_vectors_as_on_the_cpu(tiny_model: str, precision: str) -> None:
    checkpoint = locate(tiny_model)
    size = checkpoint.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (17, size, size, 3), dtype=np.uint8)
    texts = ["a cat", "a very long description of a dog in the snow", ""]
    here = Encoder.load(checkpoint, device="cpu", precision="float32")
    there = Encoder.load(checkpoint, device="cuda", precision=precision)
    for mine, theirs in (
        (here.encode_images(images), there.encode_images(images)),
        (here.encode_texts(texts)[0], there.encode_texts(texts)[0]),
    ):
        assert theirs.dtype == np.float32
        assert (mine * theirs).sum(axis=1).min() > 0.999
