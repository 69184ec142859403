"""Text and delimited text as spreadsheets and export tools write it: any delimiter, line end and Unicode encoding."""

import codecs
import io
import re
import string
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, BinaryIO

from viewfinder.errors import ConfigurationError

DELIMITERS = (",", ";", "\t", "|")
# Characters without ink around names, keys and texts: all spaces (`str.isspace`), soft hyphens, zero-width characters,
# marks of the direction of text, which Windows copies with a path, and byte order marks. Not the joiners U+200C and
# U+200D: at the end of a word they change its last letter, as in Malayalam.
BLANK = (
    string.whitespace
    + "\0\x1c\x1d\x1e\x1f\x85\u00a0\u00ad\u1680\u180e\u3000\ufeff"
    + "".join(map(chr, (*range(0x2000, 0x200C), 0x200E, 0x200F, *range(0x2028, 0x2030), *range(0x205F, 0x2070))))
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
        self._lines = self._counted(text_lines(uri, file))
        text, given = self._first_line()
        likely = [given] if given else [delimiter, *(each for each in DELIMITERS if each != delimiter)]
        splitters = [_Splitter(each, text) for each in likely]
        self._splitter = max(splitters, key=lambda each: each.score(text, names))
        self.header = self._record(text)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield line number and cells by column, without blank cells and rows, and without a repeated header.

        A cell of a column without a name is ignored. Blanks around cells are removed.
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
        begin = self.line
        try:
            return self._splitter.split(line, self._until_quote)
        except ValueError as error:
            raise ConfigurationError(f"{self._uri!r} line {begin} is not CSV: {error}.") from error

    def _until_quote(self) -> str:
        """Return the next lines, to the one that closes a quoted cell. Raises `ValueError` if the cell is too large."""
        lines, size = [], 0
        for line in self._lines:
            lines.append(line)
            size += len(line)
            if '"' in line.replace('""', ""):
                break
            if size > MAX_CELL_CHARACTERS:
                raise ValueError(f"a quoted cell has more than {MAX_CELL_CHARACTERS:,} characters")
        return "".join(lines)

    def _counted(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self.line += 1
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


class _Splitter:
    """Splits records at a delimiter. Blanks around a quoted cell are not part of it.

    `a.jpg, "a red, car" ` has a quoted cell, `a.jpg, "Stop" sign` has not. A quote after a blank may be closed on a
    later line if the header has quotes, or blanks after its delimiters; else it is a part of the text.
    """

    def __init__(self, delimiter: str, header: str) -> None:
        self._delimiter, mark = delimiter, re.escape(delimiter)
        blanks = "".join(each for each in BLANK if each not in ("\r", "\n", delimiter))
        blank = f"[{re.escape(blanks)}]"
        content, end = '((?:[^"]++|"")*+)', rf"({mark}|[\r\n]*\Z)"
        self._quoted = re.compile(f'{blank}*+"{content}"{blank}*+{end}')
        self._plain = re.compile(rf'(?!")([^{mark}\r\n]*+){end}')
        is_spaced = '"' in header or re.search(mark + blank, header)
        self._open = re.compile((f"{blank}*+" if is_spaced else "") + rf'"{content}\Z')

    def split(self, text: str, more: Callable[[], str] = str) -> list[str]:
        """Return the cells of a record; `more` returns the lines after `text` that close a quote.

        Raises `ValueError` if a quote is not closed, or if text follows a quoted cell.
        """
        if '"' not in text:  # as most lines
            return text.rstrip("\r\n").split(self._delimiter)
        cells: list[str] = []
        place, end = 0, self._delimiter
        while end == self._delimiter:
            if self._open.match(text, place):
                text, place = text[place:].lstrip(BLANK) + more(), 0
            if cell := self._quoted.match(text, place):
                cells.append(cell[1].replace('""', '"'))
            elif cell := self._plain.match(text, place):
                cells.append(cell[1])
            else:
                raise ValueError("a quoted cell is not closed, or text follows it")
            place, end = cell.end(), cell[2]
        return cells

    def score(self, header: str, names: Collection[str]) -> tuple[int, int]:
        """Return how many of `names` and how many cells the header has."""
        try:
            cells = self.split(header)
        except ValueError:
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
