"""The parts of open_clip that are not its public interface: model classes, attention, text towers, tokenizers.

Everything that an open_clip release may change without notice is used here and nowhere else.
"""

import copy
import functools
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import regex

if TYPE_CHECKING:
    import torch

# open_clip's SimpleTokenizer caches every word without a bound: in a service that is a leak.
_MAX_CACHED_WORDS = 50_000
# Characters that some tokenizers remove from a text.
_IGNORED = regex.compile(r"(?V1)[\p{Cc}\p{Cf}--\s]")


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

    def __call__(self, tokens: "torch.Tensor", device: str) -> "torch.Tensor":
        """Return the features [N, dimension] of token ids [N, context_length], not normalised."""
        if self._pools_at_end:
            return self._encode_to_end(tokens, device)
        if self._pad_id is not None:
            used = (tokens != self._pad_id).any(dim=0).nonzero()
            tokens = tokens[:, : int(used[-1]) + 1] if len(used) else tokens
        features: torch.Tensor = self._model.encode_text(tokens.to(device))
        return features

    def _encode_to_end(self, tokens: "torch.Tensor", device: str) -> "torch.Tensor":
        import torch

        # CLIP's end-of-text token has its highest id; the id of other tokenizers is part of the configuration.
        ends = (tokens if self._pool == "argmax" else tokens.eq(self._end_id).int()).argmax(dim=-1)
        length = int(ends.max()) + 1
        tower = self._tower
        hidden = tower.token_embedding(tokens[:, :length].to(device)) + tower.positional_embedding[:length]
        hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
        at_end: torch.Tensor = tower.ln_final(hidden[torch.arange(len(tokens), device=device), ends.to(device)])
        if isinstance(tower.text_projection, torch.nn.Linear):
            at_end = tower.text_projection(at_end)
        elif tower.text_projection is not None:
            at_end = at_end @ tower.text_projection
        return at_end


class BytePairTokenizer:
    """open_clip's `SimpleTokenizer`, which reads the names of control tokens as plain text and has a bounded cache."""

    def __init__(self, context_length: int, options: Mapping[str, Any]) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.tokenizer = SimpleTokenizer(context_length=context_length, **options)
        self.tokenizer.pat = _without_control_tokens(self.tokenizer)
        self._empty_cache = dict(self.tokenizer.cache)
        self._context_length = context_length

    def encode(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        """Return token ids int64 [N, context_length], and the number of tokens of each text before truncation."""
        import torch

        tokens = torch.zeros(len(texts), self._context_length, dtype=torch.long)
        found = self._tokenize(texts)
        for row, ids in zip(tokens, found, strict=True):
            kept = ids if len(ids) <= self._context_length else [*ids[: self._context_length - 1], ids[-1]]
            row[: len(kept)] = torch.tensor(kept)
        return tokens, [len(ids) for ids in found]

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation."""
        return [len(ids) for ids in self._tokenize(texts)]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if len(self.tokenizer.cache) > _MAX_CACHED_WORDS:
            self.tokenizer.cache = dict(self._empty_cache)
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [[start, *self.tokenizer.encode(text), end] for text in texts]


def _without_control_tokens(tokenizer: Any) -> Any:
    """Return the pattern of a `SimpleTokenizer` that cuts a text into words, without its control tokens."""
    names = "|".join(tokenizer.decoder[each] for each in tokenizer.all_special_ids)
    return regex.compile(tokenizer.pat.pattern.removeprefix(f"{names}|"), tokenizer.pat.flags)


class HuggingFaceTokenizer:
    """open_clip's `HFTokenizer` of a local directory, which reads the names of control tokens as plain text.

    Raises whatever transformers raises for unusable files.
    """

    def __init__(self, directory: str, context_length: int, mode: str | None, options: Mapping[str, Any]) -> None:
        from open_clip.tokenizer import HFTokenizer

        self.tokenizer = HFTokenizer(directory, context_length=context_length, tokenizer_mode=mode, **options)
        # It cleans texts by itself, so names are taken apart as the last step of that.
        self.tokenizer.clean_fn = _cleaner(self.tokenizer)
        # The mode "clips" adds three tokens to the tokenizer's; in other modes the tokenizer adds its own.
        self._added_tokens = 3 if mode == "clips" else 0

    def encode(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        """Return token ids int64 [N, context_length], and the number of tokens of each text before truncation."""
        return self.tokenizer(texts), self.lengths(texts)

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation."""
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]
        tokens = self.tokenizer.tokenizer(cleaned, add_special_tokens=not self._added_tokens, verbose=False)
        return [len(ids) + self._added_tokens for ids in tokens["input_ids"]]


def _cleaner(tokenizer: Any) -> Callable[[str], str]:
    """Return the function that cleans texts for a Hugging Face tokenizer, and puts a space into control tokens.

    transformers has `split_special_tokens`, but the vocabulary of a unigram model contains them as pieces too. A text
    that contains one only in Unicode's NFKC form, which many tokenizers make, is replaced by that form.
    """
    clean: Callable[[str], str] = tokenizer.clean_fn
    special = {str(each) for each in tokenizer.tokenizer.all_special_tokens}
    special |= {str(each) for each in tokenizer.tokenizer.added_tokens_decoder.values() if each.special}
    names = sorted((each for each in special if len(each) > 1), key=len, reverse=True)
    if not names:
        return clean
    control = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)

    def cleaned(text: str) -> str:
        text = clean(text)
        if not text.isascii() or _IGNORED.search(text):
            form = unicodedata.normalize("NFKC", _IGNORED.sub("", text))
            text = form if control.search(form) else text
        return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    return cleaned
