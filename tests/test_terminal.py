"""Text of others on a terminal and in logs."""

import json
import logging
import sys

import pytest

from viewfinder.terminal import PrintableFormatter, json_safe, printable, printable_line

HOSTILE = [
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),  # sets the title of the window
    ("\x9b31mred", r"\x9b31mred"),  # the one-character form of ESC [
    ("gpj.\u202eexe", r"gpj.\u202eexe"),  # shown as exe.jpg
    ("a\rb", r"a\rb"),  # overwrites what stands before it
    ("a\u2028b", r"a\u2028b"),
    ("\ud800", r"\ud800"),  # cannot be encoded
    ("\x7f", r"\x7f"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_a_terminal_acts_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["café", "海滩上的猫", "👩‍👩‍👧 :cat: [bold]", "two  spaces", "שלום", "a\nb"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_a_cell_is_one_line() -> None:
    assert printable_line("a\tb\r\nc  d") == "a b c  d"


@pytest.mark.parametrize("text", [text for text, _ in HOSTILE])
def test_json_is_safe_and_means_the_same(text: str) -> None:
    safe = json_safe(json.dumps({text: [text]}, ensure_ascii=False, indent=2))
    assert json.loads(safe) == {text: [text]}
    assert printable(safe) == safe


def test_a_log_record_cannot_start_a_line_of_its_own() -> None:
    record = logging.LogRecord("n", logging.INFO, "p", 1, "read %s", ("a\n12:00:00 forged\x1b[2J",), None)
    assert PrintableFormatter("%(message)s").format(record) == r"read a\n12:00:00 forged\x1b[2J"


def test_the_message_of_an_exception_cannot_start_a_line_of_its_own() -> None:
    try:
        raise ValueError("no key 'a\n12:00:00 forged\x1b[2J'")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("viewfinder", logging.ERROR, "file.py", 1, "failed", None, error)
    lines = PrintableFormatter("%(message)s").format(record).splitlines()
    assert not any(line.startswith("12:00:00") for line in lines)
    assert "\x1b" not in "".join(lines)
