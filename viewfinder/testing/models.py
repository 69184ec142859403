"""Small models with random weights, one for each kind of tower in the registry; they need no download."""

import copy
import json
from pathlib import Path
from typing import Any, Literal

from viewfinder.models.open_clip_internals import build_model
from viewfinder.models.registry import CONFIG_NAME

Family = Literal["clip", "clip-quickgelu", "siglip", "xlm-roberta", "metaclip2", "coca", "mobileclip", "eva", "pe-core"]

# Vision towers of timm, the smallest of their kind: name, pooling, pixels.
_VISION: dict[str, tuple[str, str, int]] = {
    "mobileclip": ("fastvit_mci0", "avg", 256),
    "eva": ("eva02_tiny_patch14_224", "token", 224),
    "pe-core": ("vit_pe_core_tiny_patch16_384", "map", 384),
}

_BOS, _PAD, _EOS, _UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"  # with the ids 0 to 3, as XLM-RoBERTa has them
_VOCABULARY = 260  # these four, and the 256 bytes


def tiny_checkpoint(
    directory: Path, family: Family = "clip", *, seed: int = 0, image_size: int = 32, dimension: int = 32
) -> Path:
    """Write a checkpoint directory of this family for `locate(str(directory))`; equal seeds give equal weights."""
    tower = {"width": 32, "layers": 2}
    bpe = {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower}
    unigram = {"vocab_size": _VOCABULARY, "heads": 2, "hf_tokenizer_name": "tiny", **tower}
    vision = {"image_size": image_size, "patch_size": 8, "head_width": 16, **tower}
    preprocess: dict[str, Any] = {}
    config: dict[str, Any] = {"embed_dim": dimension, "vision_cfg": vision, "text_cfg": bpe}
    if family == "clip-quickgelu":
        config["quick_gelu"] = True
    elif family == "siglip":
        config |= {"init_logit_bias": -10, "custom_text": True}
        # timm's test model is a small vision tower of SigLIP's kind: 160 pixels, 64 dimensions.
        config["embed_dim"] = 64
        config["vision_cfg"] = {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "none",
        }
        config["text_cfg"] = unigram | {
            "context_length": 64,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
            "tokenizer_kwargs": {"clean": "canonicalize"},
        }
        preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    elif family == "xlm-roberta":
        _write_xlm_roberta(directory / "text_tower")
        # Absolute, because open_clip does not resolve the name of a text tower.
        config["text_cfg"] = {
            "hf_model_name": str((directory / "text_tower").resolve()),
            "hf_tokenizer_name": "tiny",
            "hf_pooler_type": "mean_pooler",
        }
    elif family == "metaclip2":
        config["text_cfg"] = unigram | {"context_length": 77, "pool_type": "eos", "eos_id": 2}
    elif family in _VISION:
        name, pool, pixels = _VISION[family]
        config |= {"custom_text": True}
        config["vision_cfg"] = {
            "image_size": pixels,
            "timm_model_name": name,
            "timm_pool": pool,
            "timm_proj": None,
        }
        if family == "mobileclip":
            config["text_cfg"] = bpe | {"no_causal_mask": True}
        elif family == "pe-core":
            config["text_cfg"] = bpe | {"context_length": 32}
    elif family == "coca":
        config |= {"custom_text": True, "multimodal_cfg": {**bpe, "context_length": 76, "attn_pooler_heads": 2}}
        pooler = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8}
        config["vision_cfg"] = vision | pooler | {"output_tokens": True}
        config["text_cfg"] = bpe | {"context_length": 76, "embed_cls": True, "output_tokens": True}
    random_checkpoint(directory, config, preprocess, seed=seed)
    if "hf_tokenizer_name" in config["text_cfg"]:
        _write_tokenizer(directory, sentence_start=family != "siglip")
    return directory


def random_checkpoint(
    directory: Path, architecture: dict[str, Any], preprocess: dict[str, Any] | None = None, *, seed: int = 0
) -> Path:
    """Write a checkpoint directory of any open_clip `model_cfg` with random weights."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(architecture)
        for name, parameter in model.named_parameters():
            if name.startswith("text_decoder."):  # CoCa's, unused here: open_clip leaves parts of it uninitialised
                torch.nn.init.normal_(parameter, std=0.02)
            # timm begins convolutions and the scales of layers so small that all images have nearly the same vector.
            elif name.startswith("visual.trunk.") and parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif name.endswith(".gamma"):
                torch.nn.init.constant_(parameter, 0.5)
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, directory / "open_clip_model.safetensors")
    config = {"model_cfg": copy.deepcopy(architecture), "preprocess_cfg": preprocess or {}}
    (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return directory


def _write_tokenizer(directory: Path, *, sentence_start: bool) -> None:
    """Write a tokenizer of bytes in the files of a Hugging Face repository."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [_BOS, _PAD, _EOS, _UNKNOWN]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A {_EOS}" if sentence_start else f"$A {_EOS}", special_tokens=[(_BOS, 0), (_EOS, 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_BOS, pad_token=_PAD, eos_token=_EOS, unk_token=_UNKNOWN
    ).save_pretrained(directory)


def _write_xlm_roberta(directory: Path) -> None:
    from transformers import XLMRobertaConfig

    XLMRobertaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
        pad_token_id=1,
    ).save_pretrained(directory)
