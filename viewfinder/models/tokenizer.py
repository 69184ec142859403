"""Tokenization of texts for a model's text tower, without torch or open_clip."""

import numpy as np
from numpy.typing import NDArray

from viewfinder.errors import UnknownModelError
from viewfinder.models.byte_pair import BytePairTokenizer
from viewfinder.models.checkpoint import TokenizerSpec
from viewfinder.models.hugging_face_tokenizer import HuggingFaceTokenizer, TokenizerDefinition


class Tokenizer:
    """Returns token ids int64 [N, context_length] as open_clip's tokenizers do, and the number truncated per text.

    The names of control tokens in a text, such as `<end_of_text>`, are plain text here; open_clip would read them as
    those tokens, and most models ignore what follows. Threads may share it. `definition` is that of a Hugging Face
    tokenizer; without one it is read from the model's files, which imports transformers.
    """

    def __init__(self, spec: TokenizerSpec, definition: TokenizerDefinition | None = None) -> None:
        self._context_length = spec.context_length
        self._tokenizer = _load_tokenizer(spec, definition)

    def __call__(self, texts: list[str]) -> tuple[NDArray[np.int64], list[int]]:
        tokens, lengths = self._tokenizer.encode(texts)
        return tokens, [max(0, length - self._context_length) for length in lengths]

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation, added tokens included."""
        return self._tokenizer.lengths(texts)


def _load_tokenizer(
    spec: TokenizerSpec, definition: TokenizerDefinition | None
) -> BytePairTokenizer | HuggingFaceTokenizer:
    try:
        if spec.kind == "bpe":
            return BytePairTokenizer(spec.context_length, spec.options)
        definition = definition or TokenizerDefinition.read(spec.directory, spec.options)
        return HuggingFaceTokenizer(definition, spec.context_length, spec.mode, spec.options)
    except (AttributeError, ImportError, LookupError, OSError, TypeError, ValueError) as error:
        raise UnknownModelError(
            f"The tokenizer in {spec.directory} cannot be loaded ({type(error).__name__}: {error}). "
            f"Delete its files and fetch them again."
        ) from error
