"""From pixels and texts to unit vectors, with the model of one checkpoint on one device."""

import contextlib
import copy
import functools
import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewfinder.errors import ConfigurationError, UnknownModelError
from viewfinder.images.decoding import Preprocess
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Vectors = NDArray[np.float32]


class Encoder:
    """Both towers of a model; make one with `Encoder.load`, in the process that uses it.

    Threads may share it.
    """

    def __init__(self, checkpoint: Checkpoint, model: Any, device: str, precision: str) -> None:
        import torch

        self.checkpoint = checkpoint
        self.device = device
        self.precision = precision
        # What turns cosines into a model's own logits: logit_scale * cosine + logit_bias.
        bias = getattr(model, "logit_bias", None)
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self.logit_bias = 0.0 if bias is None else float(bias.detach().float())
        self.model: Any = model.eval().requires_grad_(False).to(device=device, dtype=getattr(torch, precision))
        if (device, precision) == ("cpu", "float32"):
            _lay_out_for_reading(self.model)
        self._tokenizer = Tokenizer(checkpoint.tokenizer)
        self._text = _TextTower(self.model)
        # Pictures of one call: as many as came, until the device's memory runs out.
        self._most = sys.maxsize
        # Two calls at once would take twice a GPU's memory and be no faster, and Metal ends a process for it.
        self._turn = contextlib.nullcontext() if device == "cpu" else threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        device: Device = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> "Encoder":
        """Load the weights. `threads` sets the CPU threads of the whole process, as torch has it.

        Raises `UnknownModelError` where the weights do not fit the configuration, and `ConfigurationError` where this
        machine lacks the device.
        """
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        chosen = _choose_device(device)
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
        """Unit vectors float32 [N, dimension] of pictures uint8 [N, size, size, 3], as `preprocess` says.

        A batch too large for the GPU's memory is encoded in parts that fit, and so are those that follow.
        """
        import torch

        size = self.preprocess.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"pictures must be uint8 [N, {size}, {size}, 3], not {images.dtype} {list(images.shape)}")
        if not len(images):
            return np.empty((0, self.dimension), np.float32)
        # A quarter of the bytes of float32 goes to the device, from pinned memory; the copy also takes the read-only
        # arrays that Ray hands out.
        upload = torch.empty(images.shape, dtype=torch.uint8, pin_memory=self.device == "cuda")
        upload.numpy()[...] = images
        with self._turn, torch.inference_mode():
            while True:
                count = min(len(images), self._most)
                try:
                    starts = range(0, len(images), count)
                    return np.concatenate([self._encode_images(upload[start : start + count]) for start in starts])
                except torch.OutOfMemoryError:
                    if count == 1:
                        raise
                # Outside of the handler: until it is left, the exception holds on to the memory that ran out.
                self._most = count // 2
                logger.warning("%d pictures are too many for %s: trying %d", count, self.device, self._most)
                torch.cuda.empty_cache()

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        """Unit vectors float32 [N, dimension], and how many tokens of each text did not fit into the context."""
        import torch

        if not texts:
            return np.empty((0, self.dimension), np.float32), np.empty(0, np.int64)
        tokens, truncated = self._tokenizer(texts)
        with self._turn, torch.inference_mode():
            return _unit(self._text(tokens, self.device)), np.array(truncated, np.int64)

    def count_tokens(self, texts: list[str]) -> list[int]:
        """How many tokens the model reads of each text, the marks around it included."""
        return [min(length, self.context_length) for length in self._tokenizer.lengths(texts)]

    def _encode_images(self, upload: "torch.Tensor") -> Vectors:
        import torch

        # The picture stays as it lies, channels last. Normalised in float32: bfloat16 would lose the low bits.
        pixels = upload.to(self.device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
        mean = torch.tensor(self.preprocess.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocess.std, device=self.device).view(1, 3, 1, 1)
        pixels.div_(255).sub_(mean).div_(std)
        return _unit(self.model.encode_image(pixels.to(getattr(torch, self.precision))))


def build_model(architecture: dict[str, Any]) -> "torch.nn.Module":
    """The model of an open_clip `model_cfg`, with random weights: the class that `open_clip.create_model` takes."""
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock

    config = copy.deepcopy(architecture)
    # The checkpoint holds all weights: the towers must not fetch their own.
    config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model: torch.nn.Module = kind(**config)
    for block in model.modules():
        # One with ln_1_kv looks at another tower, to write captions.
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            block.attention = functools.partial(_attend, block.attn)
    return model


def _attend(
    attention: Any,
    q_x: "torch.Tensor",
    k_x: object = None,
    v_x: object = None,
    attn_mask: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Self-attention in place of the block's own, to the same numbers.

    torch's MultiheadAttention transposes its input first, and a linear layer over a transposed batch copies its weights
    once for each text: on one core, 8 texts took 145 ms in bfloat16 where this takes 21, and 4 texts 47 ms in float32
    where this takes 38.
    """
    from torch.nn.functional import linear, scaled_dot_product_attention

    count, length, width = q_x.shape
    merged = linear(q_x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = merged.view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if attn_mask is not None and attn_mask.ndim == 3:  # CoCa's, one for each head of each text
        attn_mask = attn_mask.view(count, attention.num_heads, length, length)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
    projected: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(count, length, width))
    return projected


def _lay_out_for_reading(model: "torch.nn.Module") -> None:
    """Turn the weights of linear layers over in memory, to the same values and shapes.

    A few rows of input take no longer than the weights take to be read, and a product that need not transpose them
    reads them once: on one core, one text of ViT-B-32 takes 30 ms instead of 38, 8 take 65 instead of 79, pictures the
    same.
    """
    import torch

    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layer.weight.t().contiguous().t()
        elif isinstance(layer, torch.nn.MultiheadAttention) and layer.in_proj_weight is not None:
            layer.in_proj_weight.data = layer.in_proj_weight.t().contiguous().t()


class _TextTower:
    """The text half of a model, run over no more tokens than decide its vector.

    CLIP's tower looks backwards only and takes its vector at the end-of-text token, so what follows the last of these
    in a batch changes nothing: a short query takes a third of the time. A Hugging Face tower masks its padding, so
    columns of nothing else go. SigLIP looks at the padding too, and CoCa reads a mark behind it: those get all of it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        # open_clip.CLIP holds the parts of its text tower itself, under slightly other names.
        tower: Any = getattr(model, "text", model)
        self.tower = tower
        self.pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
        self.end_id: Any = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
        causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
        self.reads_end = causal and self.pool in ("argmax", "eos")
        self.pad_id = getattr(getattr(tower, "config", None), "pad_token_id", None)

    def __call__(self, tokens: "torch.Tensor", device: str) -> "torch.Tensor":
        if self.reads_end:
            return self._at_end(tokens, device)
        if self.pad_id is not None:
            used = (tokens != self.pad_id).any(dim=0).nonzero()
            tokens = tokens[:, : int(used[-1]) + 1] if len(used) else tokens
        features: torch.Tensor = self.model.encode_text(tokens.to(device))
        return features

    def _at_end(self, tokens: "torch.Tensor", device: str) -> "torch.Tensor":
        import torch

        # The end-of-text token has CLIP's highest id; other tokenizers' is told by the configuration.
        ends = (tokens if self.pool == "argmax" else tokens.eq(self.end_id).int()).argmax(dim=-1)
        length = int(ends.max()) + 1
        tower = self.tower
        hidden = tower.token_embedding(tokens[:, :length].to(device)) + tower.positional_embedding[:length]
        hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
        at_end: torch.Tensor = tower.ln_final(hidden[torch.arange(len(tokens), device=device), ends.to(device)])
        if isinstance(tower.text_projection, torch.nn.Linear):
            at_end = tower.text_projection(at_end)
        elif tower.text_projection is not None:
            at_end = at_end @ tower.text_projection
        return at_end


def _unit(features: "torch.Tensor") -> Vectors:
    import torch

    vectors: Vectors = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
    return vectors


def _load_model(checkpoint: Checkpoint) -> "torch.nn.Module":
    import pickle

    import open_clip
    import safetensors

    try:
        model = build_model(checkpoint.architecture)
        open_clip.load_checkpoint(model, str(checkpoint.weights))
        return model
    # A configuration goes unchecked into the constructors of open_clip, timm and transformers: it fails in any of these
    # ways. Weights fail as their format does.
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


def _choose_device(device: Device) -> str:
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in present.items() if available)
    if not present[device]:
        has = ", ".join(repr(name) for name, available in present.items() if available)
        raise ConfigurationError(
            f"The device {device!r} was asked for, but torch {torch.__version__} sees none on this machine; it has "
            f"{has}. Choose one of these or 'auto' (VIEWFINDER_DEVICE)."
        )
    return device


def _choose_precision(precision: Precision, device: str) -> str:
    import torch

    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device == "cpu" and multiplies_bfloat16() else "float32"


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor multiplies numbers in bfloat16 (AMX, AVX512-BF16), as far as Linux tells.

    There a text of ViT-B-32 takes a third of its time in float32; elsewhere torch may convert to float32 and back.
    """
    try:
        return not {"amx_bf16", "avx512_bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
