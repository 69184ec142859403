"""CLIP's own tokenizer: byte-pair encoding over lower-case words, as open_clip's `SimpleTokenizer`."""

import functools
import gzip
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from viewfinder.models.cleaning import cleaner
from viewfinder.models.open_clip_tables import vocabulary_file

# open_clip caches every word without a bound: in a service that is a leak.
_MAX_CACHED_WORDS = 50_000
_MERGES = 49_152 - 256 - 2
_WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
_END_OF_WORD = "</w>"


class BytePairTokenizer:
    """Token ids of texts. The names of control tokens are plain text. Threads may share it.

    Of open_clip's options only `clean` matters here: `reduction_mask` drops random words, for training.
    """

    def __init__(self, context_length: int, options: Mapping[str, Any]) -> None:
        self._context_length = context_length
        self._clean = cleaner(options.get("clean", "lower"))
        self._bytes = _printable_bytes()
        self._ids, self._ranks = _vocabulary()
        self._start, self._end = len(self._ids), len(self._ids) + 1
        self._word_ids = functools.lru_cache(_MAX_CACHED_WORDS)(self._merged)

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int64], list[int]]:
        """Return token ids int64 [N, context_length], and the number of tokens of each text before truncation."""
        tokens = np.zeros((len(texts), self._context_length), np.int64)
        found = [self._tokenize(text) for text in texts]
        for row, ids in zip(tokens, found, strict=True):
            kept = ids if len(ids) <= self._context_length else [*ids[: self._context_length - 1], self._end]
            row[: len(kept)] = kept
        return tokens, [len(ids) for ids in found]

    def lengths(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text before truncation."""
        return [len(self._tokenize(text)) for text in texts]

    def _tokenize(self, text: str) -> list[int]:
        words = _WORD.findall(self._clean(text))
        return [self._start, *itertools.chain.from_iterable(map(self._word_ids, words)), self._end]

    def _merged(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word: join the adjacent pair with the lowest rank until no pair has one."""
        symbols = [self._bytes[each] for each in word.encode()]
        symbols[-1] += _END_OF_WORD
        while len(symbols) > 1:
            pair = min(itertools.pairwise(symbols), key=lambda each: self._ranks.get(each, len(self._ranks)))
            if pair not in self._ranks:
                break
            symbols = _joined(symbols, pair)
        return tuple(self._ids[each] for each in symbols)


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of a pair, from the left."""
    joined: list[str] = []
    position = 0
    while position < len(symbols):
        step = 2 if tuple(symbols[position : position + 2]) == pair else 1
        joined.append("".join(symbols[position : position + step]))
        position += step
    return joined


@functools.cache
def _vocabulary() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Return the id of each symbol, and the rank of each pair of symbols that is joined."""
    with gzip.open(vocabulary_file(), "rt", encoding="utf-8", newline="\n") as file:
        lines = itertools.islice(file, 1, 1 + _MERGES)  # the first one is a version
        merges = [tuple(line.split()) for line in lines]
    single = list(_printable_bytes().values())
    symbols = [*single, *(each + _END_OF_WORD for each in single), *map("".join, merges)]
    return dict(zip(symbols, itertools.count())), {(first, second): rank for rank, (first, second) in enumerate(merges)}


@functools.cache
def _printable_bytes() -> dict[int, str]:
    """Return the character that the vocabulary writes for each byte, in the order of its ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [each for each in range(256) if each not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}
