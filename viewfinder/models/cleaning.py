"""How open_clip cleans a text before it is cut into tokens (`open_clip.tokenizer.get_clean_fn`)."""

import html
import string
from collections.abc import Callable

import ftfy

_WITHOUT_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def cleaner(name: str) -> Callable[[str], str]:
    """Return the function that open_clip calls `name`; raise `ValueError` for other names."""
    if name not in _CLEANERS:
        raise ValueError(f"clean {name!r}; known are {', '.join(_CLEANERS)}")
    return _CLEANERS[name]


def _whitespace(text: str) -> str:
    return " ".join(_repaired(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    return " ".join(_repaired(text).translate(_WITHOUT_PUNCTUATION).lower().split())


def _repaired(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


_CLEANERS = {"whitespace": _whitespace, "lower": _lower, "canonicalize": _canonicalize}
