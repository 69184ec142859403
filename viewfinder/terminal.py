"""Text of others, such as keys and captions, made safe to print on a terminal or in a log."""

import logging
import re
from typing import Any

# Control characters (escape sequences begin with one), marks and overrides that reorder the text after them, separators
# of lines and paragraphs, and surrogates, which cannot be encoded. Line feeds are kept: `printable_line` replaces them.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_BREAK = re.compile("[\t-\r\x1c-\x1e\x85\u2028\u2029]+")


def printable(text: str) -> str:
    r"""Replace characters that a terminal would act on by escapes, such as `\x1b`. Line feeds stay."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode-escape").decode("ascii"), text)


def printable_line(text: str) -> str:
    """Text on one line, for a cell of a table: tabs and line breaks become spaces, other spaces stay as they are."""
    return printable(_BREAK.sub(" ", text))


def json_safe(document: str) -> str:
    r"""Replace the same characters in a JSON text by `\uXXXX`; they stand only in strings, so its meaning stays."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


class PrintableFormatter(logging.Formatter):
    """Formats log records in which a key cannot start a line of its own or send an escape sequence."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return printable(super().formatMessage(record)).replace("\n", "\\n")

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Indented, as the message of the exception may name a key too."""
        return printable(super().formatException(ei)).replace("\n", "\n  ")
