"""Tokenization of texts for a model's text tower."""

import threading
from typing import TYPE_CHECKING

from viewfinder.errors import UnknownModelError
from viewfinder.models.checkpoint import TokenizerSpec
from viewfinder.models.open_clip_internals import BytePairTokenizer, HuggingFaceTokenizer

if TYPE_CHECKING:
    import torch


class Tokenizer:
    """Returns token ids int64 [N, context_length] as open_clip's tokenizers do, and the number truncated per text.

    The names of control tokens in a text, such as `<end_of_text>`, are plain text here; open_clip would read them as
    those tokens, and most models ignore what follows. Threads may share it.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self._context_length = spec.context_length
        self._lock = threading.Lock()  # a fast tokenizer keeps the truncation of the current call as its own state
        self._tokenizer = _load_tokenizer(spec)

    def __call__(self, texts: list[str]) -> tuple["torch.Tensor", list[int]]:
        with self._lock:
            tokens, lengths = self._tokenizer.encode(texts)
        return tokens, [max(0, length - self._context_length) for length in lengths]

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation, added tokens included."""
        with self._lock:
            return self._tokenizer.lengths(texts)


def _load_tokenizer(spec: TokenizerSpec) -> BytePairTokenizer | HuggingFaceTokenizer:
    if spec.kind == "bpe":
        return BytePairTokenizer(spec.context_length, spec.options)
    try:
        return HuggingFaceTokenizer(spec.directory, spec.context_length, spec.mode, spec.options)
    except (ImportError, LookupError, OSError, TypeError, ValueError) as error:
        raise UnknownModelError(
            f"The tokenizer in {spec.directory} cannot be loaded ({type(error).__name__}: {error}). "
            f"Delete its files and fetch them again."
        ) from error
