"""The rows of captions files: key, caption, tags and metadata of one object each.

A file is JSON `{path: text}`, or a table (`viewfinder.sources.tables`) with the columns `key`, `caption`, `tags` and
any others, which become `meta`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from viewfinder.errors import ConfigurationError
from viewfinder.sources.caption_types import MAX_NESTING, MISSING_MARKERS, MISSING_WORDS, nested, plain
from viewfinder.sources.delimited import BLANK, text_lines
from viewfinder.sources.objects import Objects
from viewfinder.sources.tables import (
    FORMATS,
    json_kind,
    named_values,
    open_plain,
    parse_json,
    part_files,
    read_tables,
    table_format,
)
from viewfinder.sources.uris import canonical_uri

CAPTION_COLUMNS = ("key", "caption", "tags")
_NAMES_SHOWN = 100
TAG_SEPARATOR = ";"  # between the tags in a cell of text

# A JSON document is parsed in memory; the other formats are read row by row.
MAX_JSON_BYTES = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One row of a captions file: where it is, for messages, and its values as the file has them.

    `missing` are the cells that stand for no value (`caption_types`), as they are written.
    """

    place: str
    key: str
    caption: str | None
    tags: Sequence[str]
    meta: Mapping[str, Any]
    missing: Sequence[str] = ()


def captions_uri(uri: str) -> str:
    """Return the canonical URI of a captions file. Raises `ConfigurationError` if its name has another format."""
    uri = canonical_uri(uri)
    if table_format(uri) is None and not _is_json(uri):
        raise ConfigurationError(
            f"--captions: {uri!r} must end in one of .json, {', '.join(FORMATS)}, each also with .gz."
        )
    return uri


def read_captions(
    uri: str, objects: Objects, count_repeated: Callable[[int], None] | None = None, *, with_fields: bool = False
) -> Iterator[CaptionRow]:
    """Yield the rows of the file at `uri`; `with_fields` leaves out tables whose header has no further column.

    `count_repeated` is called with the number of repeated keys that JSON has lost. Raises `ObjectError`,
    `ConfigurationError` with the file, the line and what was expected.
    """
    if _is_json(uri) and part_files(uri, objects) == [uri.rstrip("/")]:
        with open_plain(uri.rstrip("/"), objects) as file:
            yield from _json_rows(uri, file, count_repeated or (lambda count: None))
        return
    columns = _Columns(uri)
    for table in read_tables(uri, objects, CAPTION_COLUMNS):
        if table.columns is not None:
            columns.check_header(table.columns)
            if with_fields and set(table.columns) <= set(CAPTION_COLUMNS):
                continue
        for number, row in table.rows:
            columns.add(table.columns or row)
            yield _keyed_row(row, f"{table.uri!r} {table.unit} {number}", tags_as_text=table.columns is not None)
    columns.check_rows()


def check_encodable(text: str, place: str) -> str:
    """Return the text; raise `ConfigurationError` if it cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{place} contains a lone surrogate ({text[error.start]!r}).") from error
    return text


class _Columns:
    """The columns seen in a file, which must have `key` and `caption`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._seen: set[str] = set()
        self._has_caption = False
        self._rows = 0

    def add(self, names: Collection[str]) -> None:
        """Note the columns of one row."""
        self._rows += 1
        self._has_caption |= "caption" in names
        if len(self._seen) < _NAMES_SHOWN:  # a file may have other names in each row
            self._seen.update(names)

    def check_header(self, names: Sequence[str]) -> None:
        """Raise `ConfigurationError` if the columns of a header are not sufficient."""
        if missing := [name for name in ("key", "caption") if name not in names]:
            raise ConfigurationError(_no_column(self._uri, missing[0], names))

    def check_rows(self) -> None:
        """Raise `ConfigurationError` if no row had a caption; a file without rows passes."""
        if self._rows and not self._has_caption:
            raise ConfigurationError(_no_column(self._uri, "caption", sorted(self._seen)))


def _no_column(uri: str, name: str, names: Iterable[str]) -> str:
    return (
        f"{uri!r} has no column `{name}`; its columns are {', '.join(map(repr, names)) or 'none'}. "
        "A captions file has the columns `key` (a URI, an object key, or a path relative to the file) and `caption`, "
        "and optionally `tags` and others."
    )


def _keyed_row(row: dict[str, Any], place: str, *, tags_as_text: bool = False) -> CaptionRow:
    key = row.pop("key", None)
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)  # as in CSV, where all cells are text
    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            f"{place} has no `key` (a URI, an object key, or a path relative to the captions file); "
            f"it has {', '.join(sorted(row)) or 'nothing'}."
        )
    return _row(key, row, place, tags_as_text=tags_as_text)


def _json_rows(uri: str, file: BinaryIO, count_repeated: Callable[[int], None]) -> Iterator[CaptionRow]:
    """Yield the entries of one JSON document: `{path: text}`, `{path: {...}}`, or a list of rows."""
    lines, size = [], 0
    for line in text_lines(uri, file):
        size += len(line)
        if size > MAX_JSON_BYTES:
            raise ConfigurationError(f"{uri!r} is larger than {MAX_JSON_BYTES:,} bytes; write it as JSONL or Parquet.")
        lines.append(line)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        count_repeated(len(pairs) - len(dict(pairs)))
        return dict(pairs)

    document = parse_json("".join(lines), repr(uri), unique)
    columns = _Columns(uri)
    if isinstance(document, list):
        for number, row in enumerate(document, start=1):
            place = f"{uri!r} entry {number}"
            if not isinstance(row, dict):
                raise ConfigurationError(f"{place} is a JSON {json_kind(row)}; expected an object.")
            named = named_values(row, CAPTION_COLUMNS, place)
            columns.add(named)
            yield _keyed_row(named, place)
    elif isinstance(document, dict):
        for key, value in document.items():
            place = f"{uri!r} at key {key!r}"
            row = named_values(value, CAPTION_COLUMNS, place) if isinstance(value, dict) else {"caption": value}
            columns.add(row)
            yield _row(key, row, place)
    else:
        raise ConfigurationError(f"{uri!r} contains a JSON {json_kind(document)}; expected an object {{path: text}}.")
    columns.check_rows()


def _row(key: str, row: dict[str, Any], place: str, *, tags_as_text: bool = False) -> CaptionRow:
    row.pop("key", None)  # of an entry `{path: {"key": ...}}`
    missing = [(name, value) for name, value in row.items() if isinstance(value, str) and _is_missing(name, value)]
    for name, _ in missing:
        del row[name]
    caption, tags = row.pop("caption", None), row.pop("tags", None)
    if tags_as_text and isinstance(tags, str):
        tags = [tag for each in tags.split(TAG_SEPARATOR) if (tag := each.strip(BLANK))]
    return caption_row(key, caption, tags, row, place, [value for _, value in missing])


def _is_missing(name: str, cell: str) -> bool:
    cell = cell.strip(BLANK)
    return cell in MISSING_MARKERS or (name in CAPTION_COLUMNS and cell in MISSING_WORDS)


def caption_row(
    key: str, caption: object, tags: object, fields: Mapping[str, Any], place: str, missing: Sequence[str] = ()
) -> CaptionRow:
    """Return the row of these values. Raises `ConfigurationError` that names the place of a value that is wrong."""
    _check_depth({"tags": tags, **fields}, place)
    tags = tags or []
    if caption is not None and not isinstance(caption, str):
        raise ConfigurationError(f"{place}: `caption` is a JSON {json_kind(caption)}; expected a string.")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigurationError(f"{place}: `tags` must be a list of strings, not {tags!r}.")
    # A null field is treated as absent.
    meta = nested({name: made for name, value in fields.items() if (made := plain(value)) is not None}, place)
    _check_depth(meta, place)
    return CaptionRow(place, check_encodable(key, place), (caption or "").strip(BLANK) or None, tags, meta, missing)


def _check_depth(row: Mapping[str, Any], place: str) -> None:
    """Raise `ConfigurationError` for values that are nested deeper than a point can hold."""
    level: list[Any] = list(row.values())
    for _ in range(MAX_NESTING):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ConfigurationError(f"{place} is nested more than {MAX_NESTING} levels deep.")


def _is_json(uri: str) -> bool:
    return uri.lower().rstrip("/").removesuffix(".gz").endswith(".json")
