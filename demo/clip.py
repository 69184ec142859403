"""The demo's CLIP models: their configurations, their files, and a text tower for short rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file

VOCABULARY = 49_408  # of open_clip's SimpleTokenizer, whose end-of-text token is the last

MODELS: dict[str, dict[str, Any]] = {
    "demo": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 192, "layers": 4, "head_width": 48},
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": 80, "heads": 5, "layers": 3},
    },
    "demo-small": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": 48, "heads": 3, "layers": 2},
    },
}
PREPROCESS = {
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_ROOT = Path(__file__).resolve().parents[1]
# The package contains `demo`, so that a wheel does too.
DIRECTORIES = {
    "demo": _ROOT / "viewfinder" / "models" / "demo",
    "demo-small": _ROOT / "demo" / "models" / "demo-small",
}


def build(config: dict[str, Any], vocab_size: int) -> open_clip.CLIP:
    """An untrained model whose token table has `vocab_size` rows, the first of which stays zero."""
    model = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=config["vision_cfg"],
        text_cfg=config["text_cfg"] | {"vocab_size": vocab_size},
    )
    model.token_embedding = torch.nn.Embedding(vocab_size, config["text_cfg"]["width"], padding_idx=0)
    torch.nn.init.normal_(model.token_embedding.weight[1:].detach(), std=0.02)
    return model


def with_unknown_words(tokens: torch.Tensor, share: float = 0.1) -> torch.Tensor:
    """Blank one inner token in a share of the rows, as an unknown word would."""
    tokens = tokens.clone()
    lengths = (tokens != 0).sum(1)
    rows = torch.nonzero((torch.rand(len(tokens)) < share) & (lengths > 6)).flatten()
    tokens[rows, 1 + (torch.rand(len(rows)) * (lengths[rows] - 2)).long()] = 0
    return tokens


def encode_text(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Like `model.encode_text`, which accepts only rows padded to full length: three times the work."""
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    return hidden[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection


def load(model: open_clip.CLIP, known: torch.Tensor, start: Path) -> None:
    """Load weights that `save` wrote for the same configuration."""
    state = {name: tensor.float() for name, tensor in load_file(start / "open_clip_model.safetensors").items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][known]
    model.load_state_dict(state)


def save(model: open_clip.CLIP, known: torch.Tensor, config: dict[str, Any], out: Path) -> None:
    """Write the model in half precision with the tokenizer's full table, zero in the rows that were never trained."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    table = torch.zeros(VOCABULARY, config["text_cfg"]["width"])
    table[known] = state["token_embedding.weight"]
    state["token_embedding.weight"] = table
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, out / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}, indent=2)
    (out / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
