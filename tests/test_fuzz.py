"""Any name, captions file, manifest, pattern or setting is accepted or raises a `ConfigurationError`."""

import io
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from viewfinder.environment import PREFIX
from viewfinder.errors import ConfigurationError, SourceError
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.captions import CaptionRecord, Captions
from viewfinder.sources.manifest import MANIFEST_SCHEMA, write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.patterns import Patterns
from viewfinder.sources.uris import canonical_uri, display_key, file_path, file_uri, point_id, s3_parts
from viewfinder.testing.objects import MemoryObjects

# -- Names ----------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates, NUL and control characters among them
UNICODE = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
ODD = st.sampled_from(["", "/", "//", "..", "a//b", "%2F", "?x=1#y", "a b", "\u202egpj", "é", "e\u0301", "🖼.jpg"])
KEYS = st.one_of(UNICODE, ODD, st.builds(str.__add__, ODD, UNICODE), st.builds(lambda text: text * 30, UNICODE))
FILE_NAMES = st.binary(min_size=1, max_size=200).filter(lambda name: b"\0" not in name and b"/" not in name)


@pytest.mark.chaos("Fuzzing", "object keys")
@given(KEYS)
@example("a/../b?c=d#e%20.jpg")
def test_object_keys_of_any_characters_are_unchanged(key: str) -> None:
    assume(key)
    uri = canonical_uri(f"s3://bucket/{key}")
    assert s3_parts(uri) == ("bucket", key)
    assert canonical_uri(uri) == uri
    assert point_id(canonical_uri(f"S3://bucket/{key}")) == point_id(uri), "one object, one point"


@pytest.mark.chaos("Fuzzing", "different keys, different points")
@given(st.sets(KEYS, min_size=2, max_size=20))
def test_different_keys_are_different_points(keys: set[str]) -> None:
    assert len({point_id(f"s3://bucket/{key}") for key in keys}) == len(keys)


@pytest.mark.chaos("Fuzzing", "file names of any bytes")
@given(FILE_NAMES)
@example(b"\xff\xfe.jpg")
@example(b"%41")
def test_file_names_of_any_bytes_survive_the_round_trip_through_a_uri(name: bytes) -> None:
    path = os.fsdecode(b"/photos/" + name)
    assume(name not in (b".", b".."))
    uri = file_uri(path)
    uri.encode("ascii")
    assert os.fsencode(file_path(uri)) == os.fsencode(path)
    assert canonical_uri(uri) == uri
    display_key(path).encode()


@pytest.mark.chaos("Fuzzing", "sources")
@given(ANY_TEXT)
@example("\ud800")
def test_any_source_has_one_canonical_uri_or_is_refused(text: str) -> None:
    with suppress(SourceError):
        uri = canonical_uri(text)
        assert canonical_uri(uri) == uri


@pytest.mark.chaos("Fuzzing", "real files of any name")
@given(st.sets(FILE_NAMES.filter(lambda name: not name.startswith(b".")), min_size=1, max_size=4))
def test_files_of_any_name_are_listed_and_read(names: set[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as parts, Objects() as objects:
        made = set()
        for name in names:
            path = os.fsencode(directory) + b"/" + name
            with suppress(OSError):  # a name that this file system does not support
                Path(os.fsdecode(path)).write_bytes(name)
                made.add(path)
        wanted = {
            path for path in made if not path.lower().endswith((b".txt", b".json", b".jsonl", b".csv", b".parquet"))
        }
        assume(wanted)
        manifest = write_manifest([directory], Path(parts), objects)
        rows = [row for path in manifest.paths for row in pq.read_table(path).to_pylist()]
        assert {os.fsencode(file_path(row["uri"])) for row in rows} == wanted
        for row in rows:
            path = os.fsencode(file_path(row["uri"]))
            assert objects.read(row["uri"], 1000)[0] == path.rpartition(b"/")[2]


@pytest.mark.chaos("Fuzzing", "--include and --exclude")
@given(st.lists(ANY_TEXT, max_size=3), st.lists(ANY_TEXT, max_size=2), KEYS)
@example(["[", "[]", "[!]", "[z-a]"], [], "a")
def test_any_pattern_is_valid_or_refused(include: list[str], exclude: list[str], key: str) -> None:
    with suppress(ConfigurationError):
        patterns = Patterns(tuple(include), tuple(exclude))
        assert patterns.accept(key) is (patterns.accept(key) and Patterns(patterns.include).accept(key))


# -- Captions files and manifests -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)),
    max_leaves=8,
)
COLUMNS = st.one_of(st.sampled_from(["key", "caption", "tags", "place", "uri", "size", "etag"]), UNICODE)
ROWS = st.lists(st.dictionaries(COLUMNS, JSON, max_size=5), max_size=4)
CELLS = st.one_of(UNICODE, st.sampled_from(['"', "a,b", "s3://b/1.jpg", "1.jpg"]))


def _csv(header: list[str], rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in [header, *rows]).encode()


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


ARROW_VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), st.one_of(UNICODE, st.sampled_from(["s3://b/1.jpg", "1.jpg", "../1.jpg", "file:///x", "gs://b/x"]))),
    (pa.large_string(), UNICODE),
    (pa.binary(), st.binary(max_size=8)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.timestamp("us"), st.datetimes().map(lambda moment: moment.replace(year=2024))),
    (pa.decimal128(20, 4), st.decimals(-1000, 1000, places=4)),
    (pa.list_(pa.string()), st.lists(UNICODE, max_size=3)),
    (pa.struct([("a", pa.float64()), ("b", pa.binary())]), st.fixed_dictionaries({"a": st.floats(), "b": st.binary()})),
    (pa.map_(pa.string(), pa.int32()), st.lists(st.tuples(UNICODE, st.integers(0, 9)), max_size=2)),
]


@st.composite
def arrow_tables(draw: st.DrawFn) -> pa.Table:
    """Return a table with a few columns of any types, with known and unknown names."""
    rows = draw(st.integers(0, 3))
    columns = {}
    for name in draw(st.lists(COLUMNS, min_size=0, max_size=4, unique=True)):
        kind, values = draw(st.sampled_from(ARROW_VALUES))
        cells = draw(st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows))
        columns[name] = pa.array(cells, kind)
    return pa.table(columns)


def _damaged(data: bytes, end: int, at: int, byte: int) -> bytes:
    """Return a file cut at `end`, with one byte replaced."""
    damaged = bytearray(data[: end % len(data)] or data)
    damaged[at % len(damaged)] = byte
    return bytes(damaged)


def _not_utf8() -> bytes:
    """Return a Parquet file with a text that is not UTF-8."""
    texts = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    return _parquet(pa.table({"uri": texts, "key": texts, "caption": texts}))


PARQUET = arrow_tables().map(_parquet)
FILES = st.one_of(
    st.tuples(st.sampled_from(["json", "jsonl", "csv", "tsv", "csv.gz", "parquet"]), st.binary(max_size=300)),
    st.tuples(st.just("json"), JSON.map(lambda value: json.dumps(value).encode())),
    st.tuples(st.just("jsonl"), ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode())),
    st.tuples(
        st.just("csv"),
        st.builds(_csv, st.lists(COLUMNS, max_size=4), st.lists(st.lists(CELLS, max_size=4), max_size=4)),
    ),
    st.tuples(st.just("parquet"), PARQUET),
    st.tuples(st.just("parquet"), st.builds(_damaged, PARQUET, st.integers(0), st.integers(0), st.integers(0, 255))),
)


@pytest.mark.chaos("Fuzzing", "captions files: JSON, JSONL, CSV, Parquet")
@given(FILES)
@example(("json", b"[" * 100_000))
@example(("json", b'{"a": 1e999}'))
@example(("parquet", _not_utf8()))
@example(("jsonl", b'{"key": "\\ud800"}'))
@example(("csv", b'key,caption\n"unclosed,x\n'))
@example(("csv", b"\xff\xfek\0e\0y\0"))
def test_any_captions_file_is_read_or_raises_configuration_error(file: tuple[str, bytes]) -> None:
    suffix, content = file
    uri = f"s3://b/captions.{suffix}"
    objects = Objects(s3=MemoryObjects({uri: content}))
    with suppress(ConfigurationError), Captions.load(uri, objects) as captions:
        record = captions.find(ObjectInfo("s3://b/1.jpg", "b", "1.jpg", 1, "", ""))
        if record is not None:
            payload = record.payload()
            assert CaptionRecord.of(payload["caption"], payload["tags"], payload["meta"]) == record


@pytest.mark.chaos("Fuzzing", "manifests: CSV, Parquet")
@given(FILES.filter(lambda file: file[0] in ("csv", "parquet")))
@example(("csv", b"uri,size\ns3://b/1.jpg,99999999999999999999999\n"))
@example(("csv", b"uri\ns3://b/\n"))
@example(("csv", b""))
@example(("csv", b"\r0"))
@example(("parquet", _not_utf8()))
def test_any_manifest_is_read_or_raises_configuration_error(file: tuple[str, bytes]) -> None:
    suffix, content = file
    uri = f"s3://b/manifest.{suffix}"
    objects = Objects(s3=MemoryObjects({uri: content}))
    with tempfile.TemporaryDirectory() as parts, suppress(ConfigurationError):
        manifest = write_manifest([uri], Path(parts), objects)
        rows = [row for path in manifest.paths for row in pq.read_table(path).to_pylist()]
        assert len(rows) == manifest.listed == len({row["uri"] for row in rows})
        assert all(row["uri"] == canonical_uri(row["uri"]) for row in rows)
        assert pq.read_schema(manifest.paths[0]).equals(MANIFEST_SCHEMA)


# -- Settings -------------------------------------------------------------------------------------------------------

NAMES = [name for name in Settings.model_fields if name not in ("ray_address", "fast_proxy")]
SECRET = "a-secret-that-must-not-be-shown"
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30),
    st.sampled_from(["0", "-1", "1e308", "nan", "inf", "true", "[]", "{}", "null"]),
    st.sampled_from(["http://", "https://[", " ", "~x", "é"]),
    st.integers().map(str),
)
SECRETS = ("qdrant_api_key", "api_keys", "api_key")


@pytest.mark.chaos("Fuzzing", "settings")
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4), st.sampled_from(["", *SECRETS]))
@example({"data_dir": "~nobody-of-this-name"}, "")
def test_settings_of_any_value_are_accepted_or_refused_by_name(values: dict[str, str], secret: str) -> None:
    if secret:
        values = values | {secret: SECRET}
    environment = {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
    with mock.patch.dict(os.environ, environment):
        try:
            text = repr(Settings.load())
        except ConfigurationError as error:
            text = str(error)
    assert SECRET not in text
    assert text.startswith("Settings(") or any(name in text for name in environment), "the setting is named"


@pytest.mark.chaos("Fuzzing", "names of variables")
@given(st.text(st.characters(categories=("Lu", "Nd"), include_characters="_"), min_size=1, max_size=20))
def test_unknown_variables_are_refused(name: str) -> None:
    assume(name.lower() not in NAMES)
    with pytest.raises(ConfigurationError, match="no such setting"):
        Settings.load({f"{PREFIX}{name}": "1"})
