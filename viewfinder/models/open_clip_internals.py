"""The parts of open_clip that are not its public interface: model classes, attention, text towers.

Everything that an open_clip release may change without notice is used here and nowhere else.
"""

import copy
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def build_model(architecture: dict[str, Any]) -> "torch.nn.Module":
    """Return the model of an open_clip `model_cfg` with random weights, of the class `open_clip.create_model` picks."""
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock

    config = copy.deepcopy(architecture)
    # The checkpoint holds all weights: the towers must not download their own.
    config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model: torch.nn.Module = kind(**config)
    for block in model.modules():
        # A block with ln_1_kv attends to another tower, to write captions.
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            block.attention = functools.partial(_self_attention, block.attn)
    return model


def _self_attention(
    attention: Any,
    q_x: "torch.Tensor",
    k_x: object = None,
    v_x: object = None,
    attn_mask: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Replace `ResidualAttentionBlock.attention` with the same result in less time.

    torch's MultiheadAttention transposes its input first, and a linear layer over a transposed batch copies its weights
    once per text: on one core, 8 texts in bfloat16 took 145 ms and take 21 here, 4 in float32 took 47 and take 38.
    """
    from torch.nn.functional import linear, scaled_dot_product_attention

    count, length, width = q_x.shape
    merged = linear(q_x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = merged.view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if attn_mask is not None and attn_mask.ndim == 3:  # CoCa: one mask per head and text
        attn_mask = attn_mask.view(count, attention.num_heads, length, length)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
    projected: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(count, length, width))
    return projected


def transpose_linear_weights(model: "torch.nn.Module") -> None:
    """Store the weights of linear layers transposed in memory; values and shapes stay the same.

    For a few rows of input the time is that of reading the weights, and a product that need not transpose them reads
    them once: on one core, one text of ViT-B-32 takes 30 ms instead of 38, 8 texts 65 instead of 79, images the same.
    """
    import torch

    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layer.weight.t().contiguous().t()
        elif isinstance(layer, torch.nn.MultiheadAttention) and layer.in_proj_weight is not None:
            layer.in_proj_weight.data = layer.in_proj_weight.t().contiguous().t()


class TextTower:
    """The text tower of a model, run over only the tokens that decide its vector.

    CLIP's tower is causal and takes its vector at the end-of-text token, so tokens behind the last one in a batch
    change nothing: a short query takes a third of the time. A Hugging Face tower masks its padding, so columns of
    padding are dropped. SigLIP attends to the padding, and CoCa reads a token behind it: both get all tokens.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        # open_clip.CLIP holds the parts of its text tower itself, under slightly different names.
        tower: Any = getattr(model, "text", model)
        self._tower = tower
        self._pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
        self._end_id: Any = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
        causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
        self._pools_at_end = causal and self._pool in ("argmax", "eos")
        self._pad_id = getattr(getattr(tower, "config", None), "pad_token_id", None)

    def __call__(self, tokens: NDArray[np.int64], device: str) -> "torch.Tensor":
        """Return the features [N, dimension] of token ids [N, context_length], not normalised."""
        import torch

        if self._pools_at_end:
            return self._encode_to_end(tokens, device)
        if self._pad_id is not None:
            used = np.flatnonzero((tokens != self._pad_id).any(axis=0))
            tokens = tokens[:, : int(used[-1]) + 1] if len(used) else tokens
        features: torch.Tensor = self._model.encode_text(torch.from_numpy(tokens).to(device))
        return features

    def _encode_to_end(self, tokens: NDArray[np.int64], device: str) -> "torch.Tensor":
        import torch

        # CLIP's end-of-text token has its highest id; the id of other tokenizers is part of the configuration.
        ends = (tokens if self._pool == "argmax" else tokens == self._end_id).argmax(axis=-1)
        length = int(ends.max()) + 1
        tower = self._tower
        read = torch.from_numpy(tokens[:, :length]).to(device)
        hidden = tower.token_embedding(read) + tower.positional_embedding[:length]
        hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
        rows = torch.arange(len(tokens), device=device)
        at_end: torch.Tensor = tower.ln_final(hidden[rows, torch.from_numpy(ends).to(device)])
        if isinstance(tower.text_projection, torch.nn.Linear):
            at_end = tower.text_projection(at_end)
        elif tower.text_projection is not None:
            at_end = at_end @ tower.text_projection
        return at_end
