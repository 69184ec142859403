"""Tables of captions files and manifests: CSV, TSV, JSONL and Parquet, also gzipped or as a directory of part files.

Names of columns are trimmed, and the names that a caller knows are recognised in any case. Columns without a name, as
pandas writes for its index and spreadsheets at the right edge, are ignored.
"""

import gzip
import json
import math
import re
import shutil
import tempfile
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.delimited import BLANK, DelimitedText, text_lines
from viewfinder.sources.objects import Objects

# Formats by the end of a file's name; with `.gz` after it the file is gzipped.
FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

_SUFFIXES = tuple(FORMATS)

Rows = Iterator[tuple[int, dict[str, Any]]]

_GZIP_MAGIC = b"\x1f\x8b"
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
# Names that pandas gives to a column without one.
_INDEX_COLUMN = re.compile(r"__index_level_\d+__|Unnamed: \d+")


@dataclass(frozen=True)
class Table:
    """One file. `columns` are the names of its header, None for JSONL, where each line has its own.

    `rows` yields line or row numbers (`unit`) and values by column, without empty cells. It raises `ConfigurationError`
    with the number.
    """

    uri: str
    unit: str
    columns: Sequence[str] | None
    rows: Rows


def table_format(uri: str) -> str | None:
    """Return the format of a table by its name ("csv", "tsv", "jsonl" or "parquet"), None for another file."""
    name = uri.lower().rstrip("/").removesuffix(".gz")
    if not name.endswith(_SUFFIXES):  # a listing asks for each key
        return None
    return next((kind for suffix, kind in FORMATS.items() if name.endswith(suffix)), None)


def read_tables(uri: str, objects: Objects, names: Collection[str]) -> Iterator[Table]:
    """Yield the table at `uri`, or each part file of a directory; a table must be read before the next one.

    `names` are the columns to recognise. Raises `ObjectError`, `SourceError` if the directory has no complete table.
    """
    kind = table_format(uri)
    for part in part_files(uri, objects):
        # Spark gives its files of JSON lines the suffix .json.
        part_kind = table_format(part) or ("jsonl" if part.lower().removesuffix(".gz").endswith(".json") else kind)
        with open_plain(part, objects) as file:
            yield _open_table(part, file, part_kind or "csv", names)


def part_files(uri: str, objects: Objects) -> list[str]:
    """Return `uri` itself if it is a file, else the files of the directory as Spark, Hive and Dask write it.

    Names that begin with `_` or `.`, and empty files, are not data. Raises `SourceError` if there is no part file, or
    if Spark has not finished; `ObjectError` if nothing exists there.
    """
    plain = uri.rstrip("/")
    try:
        objects.stat(plain)
    except ObjectError as error:
        if error.reason not in ("not_found", "not_a_file"):
            raise
        missing = error
    else:
        return [plain]
    try:
        found = list(objects.list(f"{plain}/" if plain.startswith("s3://") else plain))
    except SourceError as error:
        raise missing from error
    if not found:
        raise missing
    paths = {info.uri: info.uri.removeprefix(plain).lstrip("/") for info in found}
    if unfinished := [each for each, path in paths.items() if path.startswith("_temporary/")]:
        raise SourceError(
            f"The directory {uri!r} is still being written, or its writer was killed: it contains {unfinished[0]!r}. "
            "Wait for the writer, or remove the directory `_temporary`."
        )
    data = [
        info.uri for info in found if info.size and not any(part[:1] in "_." for part in paths[info.uri].split("/"))
    ]
    if not data:
        raise SourceError(
            f"The directory {uri!r} has no part files; its files are {', '.join(map(repr, paths.values()))}."
        )
    return sorted(data)


def open_plain(uri: str, objects: Objects) -> BinaryIO:
    """Open a file and decompress it if it is gzipped, whatever its name. Raises `ObjectError`, `ConfigurationError`."""
    file = objects.open(uri)
    head = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    if head != _GZIP_MAGIC:  # a store that decodes gzip itself returns plain text under the name x.csv.gz
        return file
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with file, gzip.GzipFile(fileobj=file) as packed:
            shutil.copyfileobj(packed, plain)
    except (OSError, EOFError, zlib.error) as error:
        plain.close()
        raise ConfigurationError(f"{uri!r} is not a complete gzip file: {error}.") from error
    plain.seek(0)
    return cast(BinaryIO, plain)


def column_names(given: Sequence[str], names: Collection[str], place: str) -> list[str]:
    """Return trimmed names of columns, those in `names` in their own spelling; "" for a column to ignore.

    Raises `ConfigurationError` if two columns have the same name.
    """
    columns = []
    for text in given:
        trimmed = text.strip(BLANK)
        folded = unicodedata.normalize("NFKC", trimmed).casefold()
        name = folded if folded in names else "" if _INDEX_COLUMN.fullmatch(trimmed) else trimmed
        if name and name in columns:
            raise ConfigurationError(f"{place} has the column {name!r} twice; rename or remove one of them.")
        columns.append(name)
    return columns


def parse_json(text: str, place: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON without NaN and Infinity, which the store cannot hold. `pairs` is json's `object_pairs_hook`.

    A number that is too large for a float, such as 1e999, is read as text.
    """

    def refuse(constant: str) -> NoReturn:
        raise ConfigurationError(f"{place} contains {constant}, which is not JSON; leave the field out.")

    try:
        return json.loads(text, parse_constant=refuse, parse_float=_finite_or_text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        hint = " If each line is an object, name the file .jsonl." if error.msg == "Extra data" and line else ""
        raise ConfigurationError(f"{place} is not JSON: {error.msg} at column {error.colno}{line}.{hint}") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number with too many digits
        raise ConfigurationError(f"{place} is JSON that cannot be read: {error}.") from error


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def json_kind(value: object) -> str:
    """Return JSON's name for the type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _open_table(uri: str, file: BinaryIO, kind: str, names: Collection[str]) -> Table:
    if kind == "jsonl":
        return Table(uri, "line", None, _jsonl_rows(uri, file, names))
    if kind == "parquet":
        columns = column_names(_parquet_columns(uri, file), names, repr(uri))
        return Table(uri, "row", [name for name in columns if name], _parquet_rows(uri, file, columns))
    text = DelimitedText(uri, file, names, delimiter="\t" if kind == "tsv" else ",")
    columns = column_names(text.header, names, f"{uri!r} line {text.line}")
    return Table(uri, "line", [name for name in columns if name], text.rows(columns))


def _jsonl_rows(uri: str, file: BinaryIO, names: Collection[str]) -> Rows:
    for number, line in enumerate(text_lines(uri, file), start=1):
        if not line.strip(BLANK):
            continue
        place = f"{uri!r} line {number}"
        row = parse_json(line, place)
        if not isinstance(row, dict):
            hint = " If the file is one JSON list, name it .json." if isinstance(row, list) and number == 1 else ""
            raise ConfigurationError(f"{place} contains a JSON {json_kind(row)}; expected an object.{hint}")
        yield number, named_values(row, names, place)


def named_values(row: dict[str, Any], names: Collection[str], place: str) -> dict[str, Any]:
    """Return the fields of a JSON object under the names of `column_names`."""
    columns = column_names(list(row), names, place)
    return {name: value for name, value in zip(columns, row.values(), strict=True) if name}


def _parquet_rows(uri: str, file: BinaryIO, columns: Sequence[str]) -> Rows:
    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches():
            kept = [
                (name, _bytes_as_text(batch.column(place), f"{uri!r} column {name!r}"))
                for place, name in enumerate(columns)
                if name
            ]
            for values in zip(*(column.to_pylist() for _, column in kept), strict=True):
                number += 1
                row = {name: value for (name, _), value in zip(kept, values, strict=True) if not _is_null(value)}
                yield number, row
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ConfigurationError(f"{uri!r} is not a readable Parquet file: {error}.") from error
    except (ValueError, OverflowError) as error:  # a date before the year 1 or after 9999
        raise ConfigurationError(f"{uri!r} has a value after row {number} that cannot be read: {error}.") from error


def _parquet_columns(uri: str, file: BinaryIO) -> list[str]:
    try:
        return list(pq.ParquetFile(file).schema_arrow.names)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ConfigurationError(f"{uri!r} is not a readable Parquet file: {error}.") from error


def _bytes_as_text(column: "pa.Array[Any]", place: str) -> "pa.Array[Any]":
    # Hive and Impala write text as bytes without a type, numpy in a fixed size with zeros at the end.
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if not any(is_bytes(column.type) for is_bytes in _BYTES):
        return column
    try:
        text = column.cast(pa.large_string())
        return pc.utf8_rtrim(text, characters="\0") if pa.types.is_fixed_size_binary(column.type) else text
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"{place} contains bytes that are no UTF-8 text; leave it out.") from error


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes a missing number as NaN
