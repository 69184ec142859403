"""The runtime of GPUs, and of CPUs while a model has no export: open_clip on torch."""

import contextlib
import logging
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.errors import UnknownModelError
from viewfinder.images.decoding import Preprocess
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.open_clip_internals import TextTower, build_model

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class TorchRuntime:
    """Both towers of an open_clip model on one device of torch."""

    name = "torch"
    is_complete = True

    def __init__(self, model: Any, preprocess: Preprocess, device: str, precision: str) -> None:
        import torch

        self.device = device
        self.precision = precision
        self.logit_scale, self.logit_bias = logits_of(model)
        self.model: Any = model.eval().requires_grad_(False).to(device=device, dtype=getattr(torch, precision))
        self._preprocess = preprocess
        self._text_tower = TextTower(self.model)
        # Maximum number of images in one forward call; halved when the device runs out of memory.
        self._maximum_batch = sys.maxsize
        # Two calls at once take twice a GPU's memory and are no faster, and Metal kills the process.
        self._device_lock = contextlib.nullcontext() if device == "cpu" else threading.Lock()

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str, precision: str, threads: int | None) -> Self:
        """Load the weights; `threads` sets torch's CPU threads for the whole process.

        Raises `UnknownModelError` if the weights do not fit the configuration.
        """
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        return cls(load_model(checkpoint), checkpoint.preprocess, device, precision)

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        """See `Runtime`. A batch too large for the GPU is encoded in parts that fit, and so are all later batches."""
        import torch

        # uint8 in pinned memory: a quarter of the bytes of float32 go to the device. Copying also accepts the read-only
        # arrays that Ray returns.
        upload = torch.empty(images.shape, dtype=torch.uint8, pin_memory=self.device == "cuda")
        upload.numpy()[...] = images
        with self._device_lock, torch.inference_mode():
            while True:
                count = min(len(images), self._maximum_batch)
                try:
                    starts = range(0, len(images), count)
                    return np.concatenate([self._encode_images(upload[start : start + count]) for start in starts])
                except torch.OutOfMemoryError:
                    if count == 1:
                        raise
                # Not in the handler, where the exception still keeps a reference to the memory.
                self._maximum_batch = count // 2
                logger.warning("%d images do not fit into the memory of %s; trying half of them", count, self.device)
                torch.cuda.empty_cache()

    def encode_tokens(self, tokens: NDArray[np.int64]) -> Vectors:
        """See `Runtime`."""
        import torch

        length = self._text_tower.length
        read = length.cut(tokens)
        with self._device_lock, torch.inference_mode():
            ends = torch.from_numpy(length.ends(read)).to(self.device) if length.has_ends else None
            return _numbers(self._text_tower(torch.from_numpy(read).to(self.device), ends))

    def _encode_images(self, upload: "torch.Tensor") -> Vectors:
        import torch

        # The memory layout stays channels last. Normalised in float32: bfloat16 would lose the low bits.
        pixels = normalized(upload.to(self.device, non_blocking=True), self._preprocess)
        return _numbers(self.model.encode_image(pixels.to(getattr(torch, self.precision))))


def normalized(images: "torch.Tensor", preprocess: Preprocess) -> "torch.Tensor":
    """Return pixels float32 [N, 3, S, S] as the model expects them, of images uint8 [N, S, S, 3]."""
    import torch

    pixels = images.permute(0, 3, 1, 2).to(torch.float32)
    mean = torch.tensor(preprocess.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, device=images.device).view(1, 3, 1, 1)
    return pixels.div_(255).sub_(mean).div_(std)


def logits_of(model: Any) -> tuple[float, float]:
    """Return scale and bias of the model's own logits."""
    bias = getattr(model, "logit_bias", None)
    return float(model.logit_scale.detach().float().exp()), 0.0 if bias is None else float(bias.detach().float())


def _numbers(features: "torch.Tensor") -> Vectors:
    vectors: Vectors = features.float().cpu().numpy()
    return vectors


def load_model(checkpoint: Checkpoint) -> "torch.nn.Module":
    """Return the model with its weights; raise `UnknownModelError` if they do not fit the configuration."""
    import open_clip
    import safetensors

    try:
        model = build_model(checkpoint.architecture)
        open_clip.load_checkpoint(model, str(checkpoint.weights))
        return model
    # The constructors of open_clip, timm and transformers get the configuration unchecked and raise any of these.
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause: Exception = error
    except (EOFError, OSError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        cause = error
    first = str(cause).strip().partition("\n")[0]
    raise UnknownModelError(
        f"Model {checkpoint.name!r} cannot be loaded: {checkpoint.weights} is damaged or does not fit its "
        f"configuration ({type(cause).__name__}: {first[:200]}). Delete it and fetch it again, or correct the "
        f"configuration."
    ) from cause
