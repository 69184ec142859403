"""Rows of CSV, JSONL and Parquet files with their line or row numbers, for captions files and manifests."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from viewfinder.errors import ConfigurationError

Rows = Iterator[tuple[int, dict[str, Any]]]


def csv_rows(uri: str, file: BinaryIO) -> Rows:
    """Yield line number and cells by column, without empty cells. Raises `ConfigurationError` with the line number."""
    reader = csv.DictReader(_lines(uri, file), strict=True)
    try:
        for row in reader:
            if None in row:
                raise ConfigurationError(f"{uri!r} line {reader.line_num} has more cells than the header.")
            yield reader.line_num, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        raise ConfigurationError(f"{uri!r} line {reader.reader.line_num} is not CSV: {error}.") from error


def csv_columns(uri: str, file: BinaryIO) -> list[str]:
    """Return the names in the first line and rewind the file. Raises `ConfigurationError`."""
    try:
        columns = next(csv.reader(_lines(uri, file), strict=True), [])
    except csv.Error as error:
        raise ConfigurationError(f"{uri!r} line 1 is not CSV: {error}.") from error
    file.seek(0)
    return columns


def jsonl_rows(uri: str, file: BinaryIO) -> Rows:
    """Yield line number and object of each line that is not blank. Raises `ConfigurationError` with the line number."""
    for number, line in enumerate(_lines(uri, file), start=1):
        if not line.strip():
            continue
        row = parse_json(line, f"{uri!r} line {number}")
        if not isinstance(row, dict):
            raise ConfigurationError(f"{uri!r} line {number} contains a JSON {json_kind(row)}; expected an object.")
        yield number, row


def parquet_rows(uri: str, file: BinaryIO) -> Rows:
    """Yield row number and values by column, without nulls. Raises `ConfigurationError`."""
    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if not _is_null(value)}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ConfigurationError(f"{uri!r} is not a readable Parquet file: {error}.") from error


def parquet_columns(uri: str, file: BinaryIO) -> list[str]:
    """Return the names of the columns. Raises `ConfigurationError`."""
    try:
        return list(pq.ParquetFile(file).schema_arrow.names)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ConfigurationError(f"{uri!r} is not a readable Parquet file: {error}.") from error


def parse_json(text: str, place: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON without NaN and Infinity, which the store cannot hold. `pairs` is json's `object_pairs_hook`."""

    def refuse(constant: str) -> NoReturn:
        raise ConfigurationError(f"{place} contains {constant}, which is not JSON; leave the field out.")

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise ConfigurationError(f"{place} is not JSON: {error.msg} at column {error.colno}{line}.") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number with too many digits
        raise ConfigurationError(f"{place} is JSON that cannot be read: {error}.") from error


def json_kind(value: object) -> str:
    """Return JSON's name for the type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _lines(uri: str, file: BinaryIO) -> Iterator[str]:
    # Decoded line by line, so that the error has the line number. Line ends stay: CSV cells may contain them.
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{uri!r} line {number} is not UTF-8 text: {error.reason}.") from error


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes a missing number as NaN
