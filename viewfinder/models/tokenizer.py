"""From texts to the tokens that a model's text tower reads."""

import threading
from typing import TYPE_CHECKING

from viewfinder.errors import UnknownModelError
from viewfinder.models.checkpoint import TokenizerSpec

if TYPE_CHECKING:
    import torch

# open_clip's SimpleTokenizer remembers every word that it has met: in a service that is a leak.
_MOST_WORDS = 50_000


class Tokenizer:
    """Token ids int64 [N, context_length] as open_clip's tokenizers make them, and how many of each text did not fit.

    Threads may share it.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        self._context_length = spec.context_length
        self._lock = threading.Lock()  # a fast tokenizer holds the truncation of the current call in itself
        if spec.kind == "bpe":
            self._tokenizer = SimpleTokenizer(context_length=spec.context_length, **spec.options)
            self._special = dict(self._tokenizer.cache)
            self._marks = 2
            self._encode, self._whole = self._encode_bpe, self._whole_bpe
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
            # The mode "clips" adds its three marks after the tokenizer; others are the tokenizer's own.
            self._marks = 3 if spec.mode == "clips" else 0
            self._encode, self._whole = self._encode_huggingface, self._whole_huggingface

    def __call__(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        with self._lock:
            return self._encode(texts)

    def lengths(self, texts: list[str]) -> list[int]:
        """How many tokens each text has, marks included and nothing cut."""
        with self._lock:
            return [len(ids) + self._marks for ids in self._whole(texts)]

    def _encode_bpe(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        import torch

        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        tokens = torch.zeros(len(texts), self._context_length, dtype=torch.long)
        truncated = []
        for row, whole in zip(tokens, self._whole_bpe(texts), strict=True):
            ids = [start, *whole, end]
            kept = ids if len(ids) <= self._context_length else [*ids[: self._context_length - 1], end]
            row[: len(kept)] = torch.tensor(kept)
            truncated.append(len(ids) - len(kept))
        return tokens, truncated

    def _whole_bpe(self, texts: list[str]) -> list[list[int]]:
        if len(self._tokenizer.cache) > _MOST_WORDS:
            self._tokenizer.cache = dict(self._special)
        return [self._tokenizer.encode(text) for text in texts]

    def _encode_huggingface(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        room = self._context_length - self._marks
        return self._tokenizer(texts), [max(0, len(ids) - room) for ids in self._whole_huggingface(texts)]

    def _whole_huggingface(self, texts: list[str]) -> list[list[int]]:
        cleaned = [self._tokenizer.clean_fn(text) for text in texts]
        ids: list[list[int]] = self._tokenizer.tokenizer(cleaned, add_special_tokens=not self._marks, verbose=False)[
            "input_ids"
        ]
        return ids
