"""Whether a model knows the language of a text.

Queries are a few words long, and a wrong warning is worse than none. A script tells for certain: letters that none of
the model's languages is written in. Among languages in Latin letters py3langid decides, and only where it is sure:
at 0.9 it was wrong on none of 540 short English queries, and still saw a third of the German, French, Spanish and
Italian ones (at 0.7 on one, and half of them).
"""

import functools
import unicodedata
from typing import Any

_SURE = 0.9
# Letters of another script are a name or a sign on a shop, as long as they are few.
_LEAST_SHARE = 0.5

# What Unicode's names of letters begin with, and the language or languages written in them.
_SCRIPTS = {
    "ARABIC": "Arabic",
    "ARMENIAN": "Armenian",
    "BENGALI": "Bengali",
    "CJK": "Chinese",
    "CYRILLIC": "Russian",
    "DEVANAGARI": "Hindi",
    "GEORGIAN": "Georgian",
    "GREEK": "Greek",
    "HANGUL": "Korean",
    "HEBREW": "Hebrew",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "TAMIL": "Tamil",
    "THAI": "Thai",
}
# Those of py3langid's that are asked for often enough to be believed: it also knows Latin, Esperanto and Guarani.
_LANGUAGES = {
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "sv": "Swedish",
    "tr": "Turkish",
    "vi": "Vietnamese",
}


def language_warning(text: str, languages: str) -> str | None:
    """What to tell whoever asks in a language that the model does not know; None where it may know it.

    `languages` is the registry's word: names separated by commas, or something vaguer, which rules nothing out.
    """
    known = names_of(languages)
    language = _language(text) if known else None
    if language is None or language in known:
        return None
    return (
        f"The text seems to be {language}, which the model was not trained on (it knows {' and '.join(known)}): hits "
        f"may have little to do with it. Ask in {known[0]}, or index with a multilingual model."
    )


def names_of(languages: str) -> list[str]:
    """The languages that a registry's record names one by one; none where it does not."""
    names = [name.strip() for name in languages.split(",")]
    return names if {"English", *_SCRIPTS.values(), *_LANGUAGES.values()}.issuperset(names) else []


@functools.cache
def identifier() -> Any:
    """py3langid's model. Loading it takes a second, which no query should wait for."""
    from py3langid import langid

    # By its path: loaded by name, it is the library's one for the whole process, and without probabilities.
    return langid.LanguageIdentifier.from_modelpath(str(langid.MODEL_DIR / langid.MODEL_FILE), norm_probs=True)


def _language(text: str) -> str | None:
    scripts = [unicodedata.name(letter, "").replace("-", " ").split(" ")[0] for letter in text if letter.isalpha()]
    foreign = [_SCRIPTS[script] for script in scripts if script in _SCRIPTS]
    if scripts and len(foreign) >= _LEAST_SHARE * len(scripts):
        # Japanese mixes Chinese characters with its own: a single one of these decides.
        return "Japanese" if "Japanese" in foreign else max(set(foreign), key=foreign.count)
    if foreign or not scripts:
        return None
    code, probability = identifier().classify(text.lower())
    return _LANGUAGES.get(code) if probability >= _SURE else None
