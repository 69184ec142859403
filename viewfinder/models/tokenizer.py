"""Tokenization of texts for a model's text tower."""

import re
import threading
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import regex

from viewfinder.errors import UnknownModelError
from viewfinder.models.checkpoint import TokenizerSpec

if TYPE_CHECKING:
    import torch

# Characters that some tokenizers remove from a text.
_IGNORED = regex.compile(r"(?V1)[\p{Cc}\p{Cf}--\s]")

# open_clip's SimpleTokenizer caches every word without a bound: in a service that is a leak.
_MAX_CACHED_WORDS = 50_000


class Tokenizer:
    """Returns token ids int64 [N, context_length] as open_clip's tokenizers do, and the number truncated per text.

    The names of control tokens in a text, such as `<end_of_text>`, are plain text here; open_clip would read them as
    those tokens, and most models ignore what follows. Threads may share it.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        self._context_length = spec.context_length
        self._lock = threading.Lock()  # a fast tokenizer keeps the truncation of the current call as its own state
        if spec.kind == "bpe":
            self._tokenizer = SimpleTokenizer(context_length=spec.context_length, **spec.options)
            self._tokenizer.pat = _without_control_tokens(self._tokenizer)
            self._empty_cache = dict(self._tokenizer.cache)
            self._added_tokens = 2  # start and end
            self._encode, self._tokenize = self._encode_bpe, self._tokenize_bpe
        else:
            try:
                self._tokenizer = HFTokenizer(
                    spec.directory, context_length=spec.context_length, tokenizer_mode=spec.mode, **spec.options
                )
            except (ImportError, LookupError, OSError, TypeError, ValueError) as error:
                raise UnknownModelError(
                    f"The tokenizer in {spec.directory} cannot be loaded ({type(error).__name__}: {error}). "
                    f"Delete its files and fetch them again."
                ) from error
            # It cleans texts by itself, so names are taken apart as the last step of that.
            self._tokenizer.clean_fn = _cleaner(self._tokenizer)
            # The mode "clips" adds three tokens to the tokenizer's; in other modes the tokenizer adds its own.
            self._added_tokens = 3 if spec.mode == "clips" else 0
            self._encode, self._tokenize = self._encode_huggingface, self._tokenize_huggingface

    def __call__(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        with self._lock:
            return self._encode(texts)

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation, added tokens included."""
        with self._lock:
            return [len(ids) + self._added_tokens for ids in self._tokenize(texts)]

    def _encode_bpe(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        import torch

        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        tokens = torch.zeros(len(texts), self._context_length, dtype=torch.long)
        truncated = []
        for row, content in zip(tokens, self._tokenize_bpe(texts), strict=True):
            ids = [start, *content, end]
            kept = ids if len(ids) <= self._context_length else [*ids[: self._context_length - 1], end]
            row[: len(kept)] = torch.tensor(kept)
            truncated.append(len(ids) - len(kept))
        return tokens, truncated

    def _tokenize_bpe(self, texts: list[str]) -> list[list[int]]:
        if len(self._tokenizer.cache) > _MAX_CACHED_WORDS:
            self._tokenizer.cache = dict(self._empty_cache)
        return [self._tokenizer.encode(text) for text in texts]

    def _encode_huggingface(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        room = self._context_length - self._added_tokens
        return self._tokenizer(texts), [max(0, len(ids) - room) for ids in self._tokenize_huggingface(texts)]

    def _tokenize_huggingface(self, texts: list[str]) -> list[list[int]]:
        cleaned = [self._tokenizer.clean_fn(text) for text in texts]
        tokens = self._tokenizer.tokenizer(cleaned, add_special_tokens=not self._added_tokens, verbose=False)
        ids: list[list[int]] = tokens["input_ids"]
        return ids


def _without_control_tokens(tokenizer: Any) -> Any:
    """Return the pattern of a `SimpleTokenizer` that cuts a text into words, without its control tokens."""
    names = "|".join(tokenizer.decoder[each] for each in tokenizer.all_special_ids)
    return regex.compile(tokenizer.pat.pattern.removeprefix(f"{names}|"), tokenizer.pat.flags)


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
