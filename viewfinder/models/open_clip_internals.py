"""The parts of open_clip that are not its public interface: model classes and text towers.

Everything that an open_clip release may change without notice is used here and nowhere else.
"""

import copy
import functools
from typing import TYPE_CHECKING, Any

from viewfinder.models.text_length import TextLength

if TYPE_CHECKING:
    import torch


def build_model(architecture: dict[str, Any]) -> "torch.nn.Module":
    """Return the model of an open_clip `model_cfg` with random weights, of the class `open_clip.create_model` picks."""
    import open_clip

    config = copy.deepcopy(architecture)
    # The checkpoint holds all weights: the towers must not download their own.
    config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model: torch.nn.Module = kind(**config)
    return model


def attend_without_transposing(tower: "torch.nn.Module") -> None:
    """Replace the attention of a text tower with one whose operations OpenVINO fuses, with the same result.

    torch's MultiheadAttention transposes its input first: with it, one text of ViT-B-32 took 33 ms of CPU on OpenVINO,
    without 30. The image tower is no faster without.
    """
    from open_clip.transformer import ResidualAttentionBlock

    for block in tower.modules():
        # A block with ln_1_kv attends to another tower, to write captions.
        if isinstance(block, ResidualAttentionBlock) and not hasattr(block, "ln_1_kv"):
            block.attention = functools.partial(_self_attention, block.attn)


def _self_attention(
    attention: Any,
    q_x: "torch.Tensor",
    k_x: object = None,
    v_x: object = None,
    attn_mask: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    from torch.nn.functional import linear, scaled_dot_product_attention

    count, length, width = q_x.shape
    merged = linear(q_x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = merged.view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if attn_mask is not None and attn_mask.ndim == 3:  # CoCa: one mask per head and text
        attn_mask = attn_mask.view(count, attention.num_heads, length, length)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
    projected: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(count, length, width))
    return projected


class TextTower:
    """The text tower of a model, which reads only the tokens that decide its vector; `length` tells which."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # open_clip.CLIP holds the parts of its text tower itself, under slightly different names.
        self.tower: Any = getattr(model, "text", model)
        self.length = _text_length(self.tower)

    def __call__(self, tokens: "torch.Tensor", ends: "torch.Tensor | None") -> "torch.Tensor":
        """Return the features [N, D] of token ids [N, L] that `length` has cut, with their ends [N] if it has those."""
        import torch

        if ends is None:
            features: torch.Tensor = self._model.encode_text(tokens)
            return features
        tower, count = self.tower, tokens.shape[1]
        hidden = tower.token_embedding(tokens) + tower.positional_embedding[:count]
        hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:count, :count])
        # One row for each text before the norm and the projection, which see each row alone.
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        at_end: torch.Tensor = tower.ln_final(hidden[rows, ends])
        if isinstance(tower.text_projection, torch.nn.Linear):
            return tower.text_projection(at_end)  # type: ignore[no-any-return]
        return at_end if tower.text_projection is None else at_end @ tower.text_projection


def _text_length(tower: Any) -> TextLength:
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    if causal and pool == "argmax":
        return TextLength("highest")
    if causal and pool == "eos":
        return TextLength("end", int(getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))))  # type: ignore[arg-type]
    pad = getattr(getattr(tower, "config", None), "pad_token_id", None)
    return TextLength("all") if pad is None else TextLength("padding", int(pad))
