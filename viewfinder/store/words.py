"""Words of captions and texts: what a search by words compares, the same in every engine.

A text is read as Unicode's NFKC without case. Words are reduced to their stems, by Snowball's stemmer of their script
or, for Latin letters, of the collection's language. Scripts without spaces between words, and Korean, whose words carry
particles, are cut into single characters and pairs of neighbours, so that any part of a sentence can be found without a
dictionary. The words are stored beside the payload's texts, because a tokenizer of
Qdrant is not the same in all versions.
"""

import functools
import itertools
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import snowballstemmer

from viewfinder.settings import CaptionLanguage
from viewfinder.sources.uris import composed, point_id

DEFAULT_LANGUAGE: CaptionLanguage = "english"

CAPTION_WORDS = "caption_words"
META_WORDS = "meta_words"
COMPOSED_ID = "composed_id"
COMPOSED_KEY = "composed_key"
HIDDEN_FIELDS = (CAPTION_WORDS, META_WORDS, COMPOSED_ID, COMPOSED_KEY)
"""Payload fields that hits do not show: the words of the caption and of the texts in `meta`, and of the points whose
URI is not in composed letters (Unicode's NFC) the id of the composed URI and the composed key."""
# Texts of captions files, which keyboards and tools write in either form.
_TEXT_FIELDS = ("caption", "tags", "meta")

# Two letters, with a dot and without, which Unicode's folding of case confuses.
_TURKISH_CAPITALS = str.maketrans({"\u0130": "i", "I": "\u0131"})

# The first word of a letter's name in Unicode names its script.
_STEMMED = {
    "ARABIC": "arabic",
    "ARMENIAN": "armenian",
    "CYRILLIC": "russian",
    "DEVANAGARI": "hindi",
    "GREEK": "greek",
    "TAMIL": "tamil",
}
_UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR"})
_UNSPACED |= {"IDEOGRAPHIC", "TIBETAN", "BOPOMOFO", "YI", "JAVANESE", "BALINESE"}
_VARIATIONS = "\ufe0e\ufe0f"  # say if the pictograph before them is drawn in colour
_ZERO_WIDTH_SPACE = "\u200b"  # between words of spaced scripts; where a line may end in others
_CACHED_WORDS = 100_000  # a stemmer in Python takes 50 µs for a word
_MAX_STEMMED = 50  # longer runs of letters are no words, and would fill the cache


def words_of(text: str, language: str) -> list[str]:
    """Return the words of a text to store, in their order."""
    return list(itertools.chain.from_iterable(_of_run(*run, language, stored=True) for run in _runs(text, language)))


def words_to_find(text: str, language: str) -> list[str]:
    """Return the words that a text must have in common with a stored one, without repetitions."""
    found = itertools.chain.from_iterable(_of_run(*run, language, stored=False) for run in _runs(text, language))
    return list(dict.fromkeys(found))


def searchable(payload: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Return a payload as it is stored: with its words and its composed name (`HIDDEN_FIELDS`).

    The texts of captions and tags are in composed letters (Unicode's NFC), so that filters can compare them.
    """
    made = {**payload, **{name: _in_nfc(payload[name]) for name in _TEXT_FIELDS if name in payload}}
    if "caption" in payload:
        made[CAPTION_WORDS] = _words_in(payload["caption"], language)
    if "meta" in payload:
        made[META_WORDS] = _words_in(payload["meta"], language)
    uri = payload.get("uri", "")
    if (name := composed(uri)) != uri:
        made |= {COMPOSED_ID: point_id(name), COMPOSED_KEY: composed(payload.get("key", ""))}
    return made


def _in_nfc(value: Any) -> Any:
    """Return a value of JSON in which all strings, but not the names of fields, have composed letters."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {key: _in_nfc(inner) for key, inner in value.items()}
    return [_in_nfc(inner) for inner in value] if isinstance(value, list) else value


def _words_in(value: Any, language: str) -> Any:
    """Return the words of a string, or of the strings in an object or a list, in its shape; None without any."""
    if isinstance(value, str):
        return " ".join(words_of(value, language)) or None
    if isinstance(value, Mapping):
        named = {key: _words_in(inner, language) for key, inner in value.items()}
        return {key: inner for key, inner in named.items() if inner is not None} or None
    if isinstance(value, list):
        return [words for inner in value if (words := _words_in(inner, language)) is not None] or None
    return None


def _runs(text: str, language: str) -> Iterator[tuple[str, str]]:
    """Yield the runs of letters, digits, marks and pictographs in one script, each with its script."""
    read = unicodedata.normalize("NFKC", text)
    if language == "turkish":
        read = read.translate(_TURKISH_CAPITALS)
    folded = _ascii_digits(unicodedata.normalize("NFKC", read.casefold()))
    script, run = "", ""
    for character in folded:
        own = _script(character)
        if own == "MARK":  # belongs to the letter before it
            run += character if run else ""
            continue
        if own == "FORMAT" and (script == "UNSPACED" or character != _ZERO_WIDTH_SPACE):
            continue  # soft hyphens, joiners, directions
        own = "" if own == "FORMAT" else own
        if own != script or own in ("", "PICTOGRAPH"):
            if run:
                yield script, run
            script, run = own, ""
        run = run + character if own else ""
    if run:
        yield script, run


def _ascii_digits(text: str) -> str:
    """Return a text with the digits of all scripts as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(each)) if each.isdecimal() else each for each in text)


@functools.lru_cache(_CACHED_WORDS)
def _script(character: str) -> str:
    """Return the script of a character; "" if it is no part of a word."""
    category = unicodedata.category(character)
    if category.startswith("M"):
        if unicodedata.name(character).startswith("HEBREW"):
            return "FORMAT"  # vowels, which few texts have
        return "" if character in _VARIATIONS else "MARK"
    if category == "So":
        return "PICTOGRAPH"
    if category == "Cf":
        return "FORMAT"
    if category[0] not in "LN":
        return ""
    name = unicodedata.name(character, "?").partition(" ")[0]
    if name in _UNSPACED:
        return "UNSPACED"
    return name if name in _STEMMED else "LATIN"


def _of_run(script: str, run: str, language: str, *, stored: bool) -> Iterator[str]:
    if script != "UNSPACED":
        yield _written(_stem(run, _STEMMED.get(script, language)) if len(run) <= _MAX_STEMMED else run)
        return
    if stored or len(run) == 1:
        yield from map(_written, run)
    yield from (_written(run[start : start + 2]) for start in range(len(run) - 1))


@functools.lru_cache(_CACHED_WORDS)
def _stem(word: str, language: str) -> str:
    if language == "none":
        return word
    # A stemmer of its own, because it keeps the word as its state and threads share this function.
    return str(snowballstemmer.stemmer(language).stemWord(word)) or word


def _written(word: str) -> str:
    """Return a word in letters and digits, which no tokenizer cuts; one with marks or pictographs becomes hex."""
    return word if word.isalnum() else f"x{word.encode('utf-8', 'replace').hex()}"
