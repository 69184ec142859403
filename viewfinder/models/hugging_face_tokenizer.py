"""Tokenizers of Hugging Face repositories, with the `tokenizers` library alone."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import regex
from numpy.typing import NDArray

from viewfinder.models.cleaning import cleaner

if TYPE_CHECKING:
    from tokenizers import Encoding

# Characters that some tokenizers remove from a text.
_IGNORED = regex.compile(r"(?V1)[\p{Cc}\p{Cf}--\s]")


@dataclass(frozen=True, slots=True)
class TokenizerDefinition:
    """A tokenizer as transformers makes it of a repository's files: plain values, enough to build it without them.

    transformers changes what tokenizer.json says, depending on the class of the tokenizer and its settings.
    """

    backend: str  # JSON of the `tokenizers` library
    control_names: Sequence[str]
    pad_id: int
    bos_id: int | None
    eos_id: int | None
    cls_id: int | None
    sep_id: int | None
    padding_side: Literal["left", "right"]
    truncation_side: Literal["left", "right"]

    @classmethod
    def read(cls, directory: str, options: Mapping[str, Any]) -> Self:
        """Read the files of a repository. Imports transformers, and raises whatever it raises for unusable files."""
        from transformers import AutoTokenizer

        own = {key: value for key, value in options.items() if key not in ("clean", "strip_sep_token", "language")}
        made = AutoTokenizer.from_pretrained(directory, **own)
        if (language := options.get("language")) is not None:
            made.set_src_lang_special_tokens(language)
        special = [str(each) for each in made.added_tokens_decoder.values() if each.special]
        return cls(
            made.backend_tokenizer.to_str(),
            sorted({*map(str, made.all_special_tokens), *special}),
            made.pad_token_id,
            made.bos_token_id,
            made.eos_token_id,
            made.cls_token_id,
            made.sep_token_id,
            made.padding_side,
            made.truncation_side,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file that `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write a file for `load`."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class HuggingFaceTokenizer:
    """Token ids of texts, as open_clip's `HFTokenizer`. The names of control tokens are plain text.

    Threads may share it: it keeps no state between calls.
    """

    def __init__(
        self, definition: TokenizerDefinition, context_length: int, mode: str | None, options: Mapping[str, Any]
    ) -> None:
        from tokenizers import Tokenizer

        self._definition = definition
        self._context_length = context_length
        self._clean = _without_control_tokens(cleaner(options.get("clean", "whitespace")), definition.control_names)
        self._drops_separators = bool(options.get("strip_sep_token"))
        self._adds_class_token = mode == "clips"
        self._backend = Tokenizer.from_str(definition.backend)
        self._backend.no_padding()
        self._backend.no_truncation()
        if not self._adds_class_token:
            self._backend.enable_truncation(context_length, direction=definition.truncation_side)
            self._backend.enable_padding(
                length=context_length, pad_id=definition.pad_id, direction=definition.padding_side
            )
        self._added_tokens = self._backend.num_special_tokens_to_add(is_pair=False)

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int64], list[int]]:
        """Return token ids int64 [N, context_length], and the number of tokens of each text before truncation."""
        found = [self._encode(text) for text in texts]
        rows = [self._with_class_token(each.ids) if self._adds_class_token else each.ids for each in found]
        tokens = np.array(rows, np.int64).reshape(len(texts), self._context_length)
        if self._drops_separators:
            tokens[tokens == self._definition.sep_id] = 0
        return tokens, [self._length(each) for each in found]

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation."""
        return [self._length(self._encode(text)) for text in texts]

    def _encode(self, text: str) -> "Encoding":
        # One text at a time: a batch is divided among threads, of which a forked process has none.
        return self._backend.encode(self._clean(text), add_special_tokens=not self._adds_class_token)

    def _length(self, encoding: "Encoding") -> int:
        if self._adds_class_token:
            return len(encoding.ids) + 3
        # What was cut off is in further encodings, each with the added tokens.
        lengths = [sum(each.attention_mask) for each in (encoding, *encoding.overflowing)]
        return sum(lengths) - self._added_tokens * (len(lengths) - 1)

    def _with_class_token(self, ids: list[int]) -> list[int]:
        """Return start, tokens, end, padding, and the class token as the last."""
        tokens = self._definition
        whole = [tokens.bos_id, *ids[: self._context_length - 3], tokens.eos_id]
        return [*whole, *[tokens.pad_id] * (self._context_length - 1 - len(whole)), tokens.cls_id]  # type: ignore[list-item]


def _without_control_tokens(clean: Callable[[str], str], names: Sequence[str]) -> Callable[[str], str]:
    """Return the function that cleans texts and puts a space into the names of control tokens.

    The library has `encode_special_tokens`, but the vocabulary of a unigram model contains them as pieces too. A text
    that contains one only in Unicode's NFKC form, which many tokenizers make, is replaced by that form.
    """
    longest_first = sorted((each for each in names if len(each) > 1), key=len, reverse=True)
    if not longest_first:
        return clean
    control = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

    def cleaned(text: str) -> str:
        text = clean(text)
        if not text.isascii() or _IGNORED.search(text):
            form = unicodedata.normalize("NFKC", _IGNORED.sub("", text))
            text = form if control.search(form) else text
        return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    return cleaned
