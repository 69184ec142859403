"""Encoding of images and texts to unit vectors, with one checkpoint on one device."""

import contextlib
import logging
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.errors import ConfigurationError, UnknownModelError
from viewfinder.images.decoding import Preprocess
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.cpu import multiplies_bfloat16
from viewfinder.models.open_clip_internals import TextTower, build_model, transpose_linear_weights
from viewfinder.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Encoder:
    """Both towers of a model. Create one with `Encoder.load` in the process that uses it; threads may share it."""

    def __init__(self, checkpoint: Checkpoint, model: Any, device: str, precision: str) -> None:
        import torch

        self.checkpoint = checkpoint
        self.device = device
        self.precision = precision
        # The model's own logits are logit_scale * cosine + logit_bias.
        bias = getattr(model, "logit_bias", None)
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self.logit_bias = 0.0 if bias is None else float(bias.detach().float())
        self.model: Any = model.eval().requires_grad_(False).to(device=device, dtype=getattr(torch, precision))
        if (device, precision) == ("cpu", "float32"):
            transpose_linear_weights(self.model)
        self._tokenizer = Tokenizer(checkpoint.tokenizer)
        self._text_tower = TextTower(self.model)
        # Maximum number of images in one forward call; halved when the device runs out of memory.
        self._maximum_batch = sys.maxsize
        # Two calls at once take twice a GPU's memory and are no faster, and Metal kills the process.
        self._device_lock = contextlib.nullcontext() if device == "cpu" else threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        device: Device = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> "Encoder":
        """Load the weights. `threads` sets torch's CPU threads for the whole process.

        Raises `UnknownModelError` if the weights do not fit the configuration, and `ConfigurationError` if this machine
        lacks the device.
        """
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        chosen = choose_device(device)
        encoder = cls(checkpoint, _load_model(checkpoint), chosen, _choose_precision(precision, chosen))
        logger.info("loaded %s (%s) on %s as %s", checkpoint.name, checkpoint.fingerprint, chosen, encoder.precision)
        return encoder

    @property
    def fingerprint(self) -> str:
        return self.checkpoint.fingerprint

    @property
    def dimension(self) -> int:
        return self.checkpoint.dimension

    @property
    def preprocess(self) -> Preprocess:
        return self.checkpoint.preprocess

    @property
    def context_length(self) -> int:
        return self.checkpoint.tokenizer.context_length

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        """Return unit vectors float32 [N, dimension] of images uint8 [N, size, size, 3] prepared by `preprocess`.

        A batch too large for the GPU's memory is encoded in parts that fit, and so are all later batches.
        """
        import torch

        size = self.preprocess.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be uint8 [N, {size}, {size}, 3], not {images.dtype} {list(images.shape)}")
        if not len(images):
            return np.empty((0, self.dimension), np.float32)
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

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        """Return unit vectors float32 [N, dimension], and the number of tokens truncated from each text."""
        import torch

        if not texts:
            return np.empty((0, self.dimension), np.float32), np.empty(0, np.int64)
        tokens, truncated = self._tokenizer(texts)
        with self._device_lock, torch.inference_mode():
            return _unit_vectors(self._text_tower(tokens, self.device)), np.array(truncated, np.int64)

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return the number of tokens the model reads of each text, start and end tokens included."""
        return [min(length, self.context_length) for length in self._tokenizer.lengths(texts)]

    def _encode_images(self, upload: "torch.Tensor") -> Vectors:
        import torch

        # The memory layout stays channels last. Normalised in float32: bfloat16 would lose the low bits.
        pixels = upload.to(self.device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
        mean = torch.tensor(self.preprocess.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocess.std, device=self.device).view(1, 3, 1, 1)
        pixels.div_(255).sub_(mean).div_(std)
        return _unit_vectors(self.model.encode_image(pixels.to(getattr(torch, self.precision))))


def _unit_vectors(features: "torch.Tensor") -> Vectors:
    import torch

    vectors: Vectors = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
    return vectors


def _load_model(checkpoint: Checkpoint) -> "torch.nn.Module":
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


def choose_device(device: Device) -> str:
    """Return the device to use: for "auto" the first that there is, CUDA, MPS or the CPU.

    Raises `ConfigurationError` if this machine lacks the device.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in present.items() if available)
    if not present[device]:
        has = ", ".join(repr(name) for name, available in present.items() if available)
        raise ConfigurationError(
            f"The device {device!r} is not available: torch {torch.__version__} finds only {has} on this machine. "
            "Choose one of these or 'auto' (VIEWFINDER_DEVICE)."
        )
    return device


def _choose_precision(precision: Precision, device: str) -> str:
    import torch

    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device == "cpu" and multiplies_bfloat16() else "float32"
