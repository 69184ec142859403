"""Text and delimited text as spreadsheets and export tools write it: any delimiter, line end and Unicode encoding."""

import codecs
import csv
import io
import itertools
import re
import string
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO

from viewfinder.errors import ConfigurationError

DELIMITERS = (",", ";", "\t", "|")
# Characters without ink around names, keys and texts: all spaces (`str.isspace`), soft hyphens, zero-width characters,
# marks of the direction of text, which Windows copies with a path, and byte order marks.
BLANK = (
    string.whitespace
    + "\0\x1c\x1d\x1e\x1f\x85\u00a0\u00ad\u1680\u180e\u3000\ufeff"
    + "".join(map(chr, (*range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070))))
)

# Excel writes the delimiter into a line of its own before the header.
_DELIMITER_LINE = re.compile(r'[\ufeff"]*sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HEAD_BYTES = 1024
# Files that get the name of a text by mistake.
_NO_TEXTS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV UTF-8",
    b"PAR1": "a Parquet file; name it .parquet",
    b"%PDF": "a PDF document",
}
MAX_HEADER_CHARACTERS = 64 * 1024  # over several lines
# No request to Qdrant (32 MB by default) holds a larger one. Without a limit, a quote that is not closed would read the
# rest of the file into memory.
MAX_CELL_CHARACTERS = 32 * 1024**2
# Characters after a quote that follows a space, in which the quote must be closed.
_MAX_QUOTED_CHARACTERS = 1024**2


def text_lines(uri: str, file: BinaryIO) -> Iterator[str]:
    r"""Yield the lines of UTF-8, UTF-16 or UTF-32 text with their ends: \n, \r\n or \r. Closes the file.

    Raises `ConfigurationError`.
    """
    encoding = _encoding(uri, file)
    text = io.TextIOWrapper(file, encoding, newline="")
    try:
        yield from text
    except UnicodeDecodeError as error:
        raise ConfigurationError(_not_text(uri, file, encoding, error)) from error
    finally:
        text.close()


class DelimitedText:
    """A CSV or TSV file. `header` holds its first line as cells, and `line` the number of the last line read.

    `delimiter` is the expected one. The delimiter is the one that makes most of `names` out of the header, else most
    cells. Raises `ConfigurationError` with the line that is wrong.
    """

    def __init__(self, uri: str, file: BinaryIO, names: Collection[str], *, delimiter: str) -> None:
        self.line = 0
        self._uri = uri
        csv.field_size_limit(MAX_CELL_CHARACTERS)  # of the process
        self._ahead: deque[str] = deque()  # lines that were read and are to be read again
        self._source = text_lines(uri, file)
        self._lines = self._all_lines()
        text, given = self._first_line()
        likely = [given] if given else [delimiter, *(each for each in DELIMITERS if each != delimiter)]
        self._delimiter = max(likely, key=lambda each: _score(text, each, names))
        self._quote_after_space = re.compile(f'(^|{re.escape(self._delimiter)}) +"')
        try:
            self.header = _split_line(text, self._delimiter) if text else []
        except csv.Error as error:
            raise ConfigurationError(f"{uri!r} line {self.line} is not CSV: {error}.") from error

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield line number and cells by column, without blank cells and rows, and without a repeated header.

        A cell of a column without a name is ignored. Spaces around cells are removed, also before a quoted cell.
        """
        header = [cell.strip(BLANK) for cell in self.header]
        for line in self._lines:
            cells = [cell.strip(BLANK) for cell in self._record(line)]
            if not any(cells) or cells == header:
                continue
            if any(cells[len(columns) :]):
                raise ConfigurationError(f"{self._uri!r} line {self.line} has more cells than the header.")
            yield self.line, {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell}

    def _record(self, line: str) -> list[str]:
        """Return the cells of the record that begins with this line."""
        if '"' not in line:  # as most lines: no reader is needed
            return line.rstrip("\r\n").split(self._delimiter)
        if self._quote_after_space.search(line) and (cells := self._quoted_after_spaces(line)):
            return cells
        begin = self.line
        try:
            return next(csv.reader(itertools.chain([line], self._lines), delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            raise ConfigurationError(f"{self._uri!r} line {begin} is not CSV: {error}.") from error

    def _quoted_after_spaces(self, line: str) -> list[str] | None:
        """Return the cells of a record with spaces before its quotes; None if such a quote is a part of the text.

        `a.jpg, "a red car"` has a quoted cell, `a.jpg, "Stop" sign` has not.
        """
        lines, is_open, size = [line], line.count('"') % 2, 0
        while is_open and size < _MAX_QUOTED_CHARACTERS and (more := self._next_line()):
            lines.append(more)
            size += len(more)
            is_open = (is_open + more.count('"')) % 2
        try:
            return _split_line("".join(lines), self._delimiter)
        except csv.Error:
            self._ahead.extendleft(reversed(lines[1:]))
            self.line -= len(lines) - 1
            return None

    def _next_line(self) -> str:
        """Return the next line, "" after the last one."""
        line = self._ahead.popleft() if self._ahead else next(self._source, "")
        self.line += bool(line)
        return line

    def _all_lines(self) -> Iterator[str]:
        while line := self._next_line():
            yield line

    def _first_line(self) -> tuple[str, str | None]:
        """Return the first line that is not blank, and the delimiter that a line before it names."""
        given = None
        for line in self._lines:
            if named := _DELIMITER_LINE.fullmatch(line):
                given = named[1]
            elif line.strip(BLANK + "".join(DELIMITERS) + '"'):
                return self._whole(line), given
        return "", given

    def _whole(self, text: str) -> str:
        """Return a header with the lines that follow while a quote is open: a quoted name may contain line ends."""
        begin, is_open = self.line, text.count('"') % 2
        while is_open and (more := next(self._lines, "")):
            text += more
            is_open = (is_open + more.count('"')) % 2
            if len(text) > MAX_HEADER_CHARACTERS:
                raise ConfigurationError(
                    f"{self._uri!r} line {begin}: the header has a quotation mark that is not closed within "
                    f"{MAX_HEADER_CHARACTERS:,} characters. Remove the mark, or quote the whole name."
                )
        return text


def _split_line(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True), [])


def _score(line: str, delimiter: str, names: Collection[str]) -> tuple[int, int]:
    try:
        cells = _split_line(line, delimiter)
    except csv.Error:
        return 0, 0
    return sum(cell.strip(BLANK).casefold() in names for cell in cells), len(cells)


def _encoding(uri: str, file: BinaryIO) -> str:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if kind := _NO_TEXTS.get(head[:4]):
        raise ConfigurationError(f"{uri!r} is {kind}.")
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    # Without a mark, every second byte of Latin text in UTF-16 is zero.
    for encoding, high in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if high.count(0) * 2 > len(high):
            return encoding
    return "utf-8-sig"


def _not_text(uri: str, file: BinaryIO, encoding: str, error: UnicodeDecodeError) -> str:
    if not encoding.startswith("utf-8"):
        return f"{uri!r} is not {encoding.upper()} text: {error.reason}. Save it as UTF-8."
    file.seek(0)
    line = next(number for number, content in enumerate(file, start=1) if not _is_utf8(content))
    return f"{uri!r} line {line} is not UTF-8 text: {error.reason}. Save it as UTF-8 (in Excel: CSV UTF-8)."


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
