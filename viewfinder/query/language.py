"""Warns about queries in a language that the model was not trained on.

Queries are a few words long, and a wrong warning is worse than no warning. A script that none of the model's languages
uses is certain evidence. Among languages in Latin script py3langid decides, at a probability of at least 0.9: it then
misjudged none of 540 short English queries and recognized a third of the German, French, Spanish and Italian ones. (At
0.7 it misjudged one and recognized half.)
"""

import functools
import unicodedata
from typing import Any

_MIN_PROBABILITY = 0.9
# A smaller share of letters in another script is a name or a shop sign.
_MIN_FOREIGN_SHARE = 0.5

# The first word of Unicode's names of letters, and the main language written in them.
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
# The languages of py3langid that are common in queries: it also guesses Latin, Esperanto and Guarani.
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
    """The warning for a text in a language that the model was not trained on, else None.

    `languages` comes from the registry: names separated by commas, or a vaguer description that rules out no language.
    """
    known = named_languages(languages)
    language = _language(text) if known else None
    if language is None or language in known:
        return None
    return (
        f"The text seems to be {language}, which the model was not trained on (it knows {' and '.join(known)}): hits "
        f"may be unrelated to it. Ask in {known[0]}, or index with a multilingual model."
    )


def named_languages(languages: str) -> list[str]:
    """The languages that a registry entry lists by name, if it does."""
    names = [name.strip() for name in languages.split(",")]
    return names if {"English", *_SCRIPTS.values(), *_LANGUAGES.values()}.issuperset(names) else []


@functools.cache
def identifier() -> Any:
    """py3langid's model. Loading takes a second, so a service loads it at its start."""
    from py3langid import langid

    # Loaded by path: by name it would be the library's global instance, without probabilities.
    return langid.LanguageIdentifier.from_modelpath(str(langid.MODEL_DIR / langid.MODEL_FILE), norm_probs=True)


def _language(text: str) -> str | None:
    scripts = [unicodedata.name(letter, "").replace("-", " ").split(" ")[0] for letter in text if letter.isalpha()]
    foreign = [_SCRIPTS[script] for script in scripts if script in _SCRIPTS]
    if scripts and len(foreign) >= _MIN_FOREIGN_SHARE * len(scripts):
        # Japanese mixes Chinese characters with kana: one kana decides.
        return "Japanese" if "Japanese" in foreign else max(set(foreign), key=foreign.count)
    if foreign or not scripts:
        return None
    code, probability = identifier().classify(text.lower())
    return _LANGUAGES.get(code) if probability >= _MIN_PROBABILITY else None
