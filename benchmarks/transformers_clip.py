"""Convert a checkpoint of open_clip to Hugging Face Transformers' CLIPModel and CLIPProcessor."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.torch_runtime import load_model

# Names of a block's parts in Transformers.
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # Transformers spells it like this
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def convert(checkpoint: Checkpoint, directory: Path) -> Path:
    """Write `directory` for `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained`.

    For checkpoints of OpenAI's architecture. Raise `KeyError` for weights that Transformers' model lacks, and
    `RuntimeError` for weights that it needs and the checkpoint lacks.
    """
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    model = CLIPModel(CLIPConfig.from_dict(_config(checkpoint.architecture)))
    weights = load_model(checkpoint).state_dict()
    model.load_state_dict(dict(_renamed(weights)))
    model.save_pretrained(directory)
    preprocess = checkpoint.preprocess
    images = CLIPImageProcessor(
        size={"shortest_edge": preprocess.size},
        crop_size={"height": preprocess.size, "width": preprocess.size},
        image_mean=list(preprocess.mean),
        image_std=list(preprocess.std),
    )
    vocabulary, merges = _write_vocabulary(directory)
    texts = CLIPTokenizer(str(vocabulary), str(merges), model_max_length=checkpoint.tokenizer.context_length)
    CLIPProcessor(images, texts).save_pretrained(directory)
    return directory


def _config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    activation = "quick_gelu" if architecture.get("quick_gelu") else "gelu"
    return {
        "projection_dim": architecture["embed_dim"],
        "vision_config": {
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": activation,
            "projection_dim": architecture["embed_dim"],
        },
        "text_config": {
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "hidden_act": activation,
            "projection_dim": architecture["embed_dim"],
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
        },
    }


def _renamed(weights: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, values in weights.items():
        if name in ("attn_mask", "logit_bias"):
            continue
        if name in _TRANSPOSED:
            yield _TRANSPOSED[name], values.T
        elif ".resblocks." in name:
            yield from _of_block(name, values)
        else:
            yield _NAMES[name], values


def _of_block(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    where, rest = name.split(".resblocks.")
    number, part = rest.split(".", 1)
    block = f"{'vision_model' if where.startswith('visual') else 'text_model'}.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        for side, third in zip("qkv", values.chunk(3), strict=True):
            yield f"{block}.self_attn.{side}_proj.{kind}", third
        return
    part, kind = part.rsplit(".", 1)
    yield f"{block}.{_BLOCK[part]}.{kind}", values


def _write_vocabulary(directory: Path) -> tuple[Path, Path]:
    """Write open_clip's copy of CLIP's byte-pair encoding as the two files that Transformers reads."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    ids = {special.get(token, token): number for token, number in tokenizer.encoder.items()}
    vocabulary.write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.bpe_ranks)]
    merges.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vocabulary, merges
