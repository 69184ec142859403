"""Captions files that change while they are read, and what a captions file may not contain."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from viewfinder.errors import ConfigurationError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.caption_files import CaptionFiles
from viewfinder.sources.caption_types import MAX_NAMES, MAX_NESTING
from viewfinder.sources.captions import Captions
from viewfinder.sources.delimited import MAX_HEADER_CHARACTERS
from viewfinder.sources.manifest import write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.testing.objects import MemoryObjects

URI = "s3://b/c.csv"
NUMBERS, TEXTS = b"key,caption,year\n1.jpg,a,2020\n", b"key,caption,year\n1.jpg,b,unknown\n"
IMAGE = ObjectInfo("s3://b/1.jpg", "b", "1.jpg", 1, "", "")


class ChangingObjects(MemoryObjects):
    """Calls `change` with itself and the number of the read, after each time that the file was opened."""

    def __init__(self, change: Callable[["ChangingObjects", int], None]) -> None:
        super().__init__({URI: NUMBERS})
        self._change = change
        self._opened = 0

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO:
        file = super().open(uri, max_bytes, whole=whole)
        self._opened += 1
        self._change(self, self._opened)
        return file


def test_a_file_that_changes_between_its_two_reads_is_read_again() -> None:
    """The types of the first read made values of the second one disappear."""

    def change(memory: ChangingObjects, number: int) -> None:
        if number == 1:
            memory.contents[URI] = TEXTS

    with Objects(s3=ChangingObjects(change)) as objects, CaptionFiles.open([(URI, None)], objects) as files:
        (record,) = files.find_many([(IMAGE, ["s3://b"])])
    assert record is not None
    assert (record.caption, record.payload()["meta"]) == ("b", {"year": "unknown"})


def test_a_file_that_never_stops_to_change_is_refused_by_name() -> None:
    def change(memory: ChangingObjects, number: int) -> None:
        memory.contents[URI] = NUMBERS + b"\n" * number

    with Objects(s3=ChangingObjects(change)) as objects, pytest.raises(ConfigurationError, match=r"b/c\.csv' changed"):
        CaptionFiles.open([(URI, None)], objects)


@pytest.mark.parametrize("read", [1, 2])
def test_a_file_that_disappears_between_its_reads_is_left_out(read: int) -> None:
    def change(memory: ChangingObjects, number: int) -> None:
        if number == read:
            del memory.contents[URI]

    with (
        Objects(s3=ChangingObjects(change)) as objects,
        CaptionFiles.open([(URI, None)], objects, leave_out=True) as files,
    ):
        assert list(files.gone) == [URI]
        assert files.find_many([(IMAGE, ["s3://b"])]) == [None]


def load(content: bytes, uri: str) -> None:
    with Objects(s3=MemoryObjects({uri: content})) as objects, Captions.load(uri, objects):
        pass


def deep(depth: int) -> Any:
    return [deep(depth - 1)] if depth else "x"


@pytest.mark.parametrize(
    "row",
    [
        {"field": deep(500)},
        {"tags": deep(500)},
        {".".join("a" * 500): 1},
        {".".join("a" * 40): {".".join("b" * 40): 1}},
    ],
)
def test_a_value_that_is_nested_too_deep_is_refused_with_its_place(row: dict[str, Any]) -> None:
    content = json.dumps({"key": "1.jpg", "caption": "a"} | row).encode()
    with pytest.raises(ConfigurationError, match=f"line 1.* nested more than {MAX_NESTING} levels deep"):
        load(content, "s3://b/c.jsonl")


def test_a_date_of_parquet_that_no_calendar_has_is_refused_with_its_row() -> None:
    times = pa.array([0, 2**53], pa.timestamp("ms"))
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["1", "2"], "caption": ["a", "b"], "at": times}), sink)
    with pytest.raises(ConfigurationError, match=r"c\.parquet' has a value after row \d that cannot be read"):
        load(sink.getvalue(), "s3://b/c.parquet")


def test_a_number_of_json_that_is_too_large_is_text() -> None:
    content = b'{"key": "1.jpg", "caption": "a", "size": 1e999, "small": -1.5}'
    uri = "s3://b/c.jsonl"
    with Objects(s3=MemoryObjects({uri: content})) as objects, Captions.load(uri, objects) as captions:
        record = captions.find(IMAGE)
    assert record is not None
    assert record.payload()["meta"] == {"size": "1e999", "small": -1.5}


def test_a_header_with_an_open_quote_is_refused_by_its_line() -> None:
    content = b'\nkey,caption,size "\n' + b"1.jpg,a,2\n" * (MAX_HEADER_CHARACTERS // 5)
    with pytest.raises(ConfigurationError, match="line 2: the header has a quotation mark that is not closed"):
        load(content, URI)


def test_field_names_that_are_data_do_not_fill_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    rows = ({"key": f"{number}.jpg", "caption": "a", f"name {number}": 1} for number in range(MAX_NAMES + 5))
    content = "\n".join(map(json.dumps, rows)).encode()
    uri = "s3://b/c.jsonl"
    with (
        Objects(s3=MemoryObjects({uri: content})) as objects,
        CaptionFiles.open([(uri, None)], objects) as files,
    ):
        assert len(files.fields) == MAX_NAMES
    (message,) = [each for each in caplog.messages if "fields" in each]
    assert f"{uri} has more than 10,000 fields: 5 values" in message


def test_a_description_with_a_lone_surrogate_is_refused_and_an_empty_key_matches_nothing() -> None:
    with pytest.raises(ConfigurationError, match=r"description of 'a\.jpg' contains a lone surrogate"):
        Captions.given({"a.jpg": "\ud800"}, "file:///photos")
    with Captions.given({"": "a"}, "file:///photos") as captions:
        assert captions.unmatched_keys() == [""]


def test_captions_without_an_object_are_logged_with_some_of_their_keys(caplog: pytest.LogCaptureFixture) -> None:
    content = "key,caption\n" + "".join(f"photos/{number}.jpg,a\n" for number in range(5))
    with (
        Objects(s3=MemoryObjects({"s3://b/c.csv": content.encode()})) as objects,
        CaptionFiles.open([("s3://b/c.csv", None)], objects) as files,
    ):
        files.log_unmatched()
    expected = "without a listed object: 5, such as 'photos/0.jpg', 'photos/1.jpg', 'photos/2.jpg'"
    assert expected in caplog.text


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("C:\\photos\\1.jpg", "path of Windows"),
        ("https://cdn.example.com/x/9.jpg", "must contain the bucket"),
        ("s3://other/9.jpg", "in a source of this run"),
        ("photos/9", "extension"),
        ("9.JPG", "same capital letters"),
    ],
)
def test_the_log_of_captions_without_an_object_says_why(key: str, hint: str, caplog: pytest.LogCaptureFixture) -> None:
    content = json.dumps({"key": key, "caption": "a"}).encode()
    with (
        Objects(s3=MemoryObjects({"s3://b/c.jsonl": content})) as objects,
        CaptionFiles.open([("s3://b/c.jsonl", None)], objects) as files,
    ):
        files.find_many([(IMAGE, ["s3://b"])])
        files.log_unmatched()
    (message,) = [each for each in caplog.messages if "without a listed object" in each]
    assert hint in message
    assert message.endswith("A listed object without a caption is 's3://b/1.jpg'.")


def test_databases_are_in_the_directory_of_the_run_that_may_be_killed(tmp_path: Path) -> None:
    manifest = "s3://b/list.csv"
    memory = MemoryObjects({URI: NUMBERS, manifest: b"uri\ns3://b/1.jpg\n"})
    found: set[str] = set()

    def look(listed: int) -> None:
        found.update(path.name.rpartition("-")[0] for path in tmp_path.glob("*.sqlite"))

    with (
        Objects(s3=memory) as objects,
        CaptionFiles.open([(URI, None)], objects, directory=tmp_path) as captions,
    ):
        write_manifest([manifest], tmp_path, objects, captions=captions, progress=look)
    assert found == {".viewfinder-captions", ".viewfinder-named"}
    assert not list(tmp_path.glob("*.sqlite"))
