"""Printing of results: tables for a terminal, tab-separated lines for a pipe, or JSON.

Keys and captions are other people's text: characters that a terminal acts on are escaped. JSON holds the exact text.
"""

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from viewfinder.terminal import json_safe, printable, printable_line

# In characters; on narrower terminals a table that does not fit is printed as lines.
_TABLE_WIDTH = 120


def stdout() -> Console:
    """A console on standard output; wide enough not to break lines in a pipe."""
    console = Console(markup=False, highlight=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, emoji=False, width=10_000)


def print_text(text: str) -> bool:
    """Print lines unchanged; return False if the reader, such as `head`, has closed the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would raise it again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def print_json(document: Any) -> bool:
    """Print one JSON document, indented. Returns as `print_text`."""
    return print_text(json_safe(json.dumps(document, indent=2, ensure_ascii=False, default=str)))


def print_json_line(document: Any) -> bool:
    """Print one JSON document on one line. Returns as `print_text`."""
    return print_text(json_safe(json.dumps(document, ensure_ascii=False, default=str)))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings; in a pipe, lines of cells separated by tabs."""
    console = stdout()
    if not console.is_terminal:
        print_lines([headings, *rows])
        return
    if console.width < _TABLE_WIDTH and _width(headings, rows) > console.width:
        _print_stacked(console.width, headings, rows)
        return
    # Fold long paths and addresses, because a truncated cell cannot be copied.
    table = Table(*(Column(heading, overflow="fold") for heading in headings), box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(printable_line, row))
    console.print(table)


def _width(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width of a table in which no cell is folded, with two spaces beside each cell."""
    return sum(max(map(len, column)) + 3 for column in zip(headings, *rows, strict=True))


def _print_stacked(width: int, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row as lines: its first cell, then heading and value of the others. Long words are not divided."""
    wrapper = textwrap.TextWrapper(width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    for name, *cells in rows:
        print_text(wrapper.fill(printable_line(name)))
        for heading, cell in zip(headings[1:], cells, strict=True):
            if cell:
                print_text(wrapper.fill(f"  {heading}: {printable_line(cell)}"))


def print_lines(rows: Sequence[Sequence[str]]) -> bool:
    """Print lines of cells separated by tabs. Returns as `print_text`."""
    return print_text("\n".join("\t".join(map(printable_line, row)) for row in rows))


def print_record(fields: Sequence[tuple[str, str]], title: str = "") -> None:
    """Print names and values; in a pipe, lines of name and value separated by a tab."""
    console = stdout()
    if not console.is_terminal:
        print_lines(fields)
        return
    table = Table("", Column("", overflow="fold"), title=title, title_justify="left", show_header=False, box=None)
    for name, value in fields:
        table.add_row(printable_line(name), printable_line(value))
    console.print(table)


def note(text: str) -> None:
    """Print a line on standard error, separate from results."""
    print(printable(text), file=sys.stderr)


def report_error(message: str, status: int, *, as_json: bool) -> None:
    """Print an error on standard error; with `as_json` as the line {"error": {"message": ..., "exit_status": ...}}."""
    document = {"error": {"message": message, "exit_status": status}}
    note(json_safe(json.dumps(document, ensure_ascii=False)) if as_json else f"error: {message}")
