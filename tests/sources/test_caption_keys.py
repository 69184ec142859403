"""Which object a key of a captions file names."""

import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.sources.caption_contents import info, lines, loaded
from viewfinder.sources.captions import CaptionRecord, Captions
from viewfinder.sources.objects import Objects


@pytest.mark.parametrize(
    ("key", "object_uri"),
    [
        ("s3://b/set/deep/1.jpg", "s3://b/set/deep/1.jpg"),
        ("set/deep/1.jpg", "s3://b/set/deep/1.jpg"),
        ("deep/1.jpg", "s3://b/set/deep/1.jpg"),
        ("./deep/1.jpg", "s3://b/set/deep/1.jpg"),
        ("../other/1.jpg", "s3://b/other/1.jpg"),
        ("a//b #%20.jpg", "s3://b/set/a//b #%20.jpg"),
        ("s3://c/x.jpg", "s3://c/x.jpg"),
        ("x.jpg", "s3://c/x.jpg"),  # the object key, in whatever bucket
        ("/set/deep/1.jpg", "s3://b/set/deep/1.jpg"),
        ("set\\deep\\1.jpg", "s3://b/set/deep/1.jpg"),  # as programs on Windows write it
        (".\\deep\\1.jpg", "s3://b/set/deep/1.jpg"),
        ("back\\slash.jpg", "s3://b/set/back\\slash.jpg"),
        (1, "s3://b/set/1"),
    ],
)
def test_a_key_is_a_uri_an_object_key_or_a_relative_path(key: str | int, object_uri: str) -> None:
    with loaded(lines({"key": key, "caption": "here"})) as captions:
        found = captions.find(info(object_uri))
        assert captions.unmatched() == 0
    assert found == CaptionRecord.of("here")


@pytest.mark.parametrize("key", ["1.jpg", "set/1.jpg", "elsewhere/set/deep/1.jpg", "s3://c/set/deep/1.jpg", "../1.jpg"])
def test_a_key_of_another_object_does_not_match(key: str) -> None:
    with loaded(lines({"key": key, "caption": "elsewhere"})) as captions:
        assert captions.find(info("s3://b/set/deep/1.jpg")) is None
        assert captions.unmatched() == 1


@pytest.mark.parametrize(
    "key",
    [
        '="a b.jpg"',
        "'a b.jpg",
        "'https://b.c/set/a%20b.jpg",
        "\u202aa b.jpg\u202c",
        "a%20b.jpg",
        "set%2Fa%20b.jpg",
        "s3://b.c/set/a%20b.jpg",
        "https://s3.eu-west-1.amazonaws.com/b.c/set/a%20b.jpg",
        "http://localhost:9000/b.c/set/a%20b.jpg?X-Amz-Expires=60",
        "https://b.c.s3.eu-west-1.amazonaws.com/set/a%20b.jpg",
        "https://b.c/set/a%20b.jpg",
        '="https://storage.googleapis.com/b.c/set/a%20b.jpg"',
    ],
)
def test_a_key_has_other_readings_for_objects_that_no_key_names_exactly(key: str) -> None:
    listed = info("s3://b.c/set/a b.jpg")
    read, exact = {"key": key, "caption": "read"}, {"key": "a b.jpg", "caption": "exact"}
    with loaded(lines(read), "s3://b.c/set/c.jsonl") as captions:
        assert captions.find(listed) == CaptionRecord.of("read")
        assert captions.unmatched() == 0
        assert captions.find(info("s3://d/set/a.jpg")) is None
    with loaded(lines(exact, read), "s3://b.c/set/c.jsonl") as captions:
        assert captions.find(listed) == CaptionRecord.of("exact")
        assert captions.unmatched() == 1
    with loaded(lines(read), "s3://b.c/set/c.jsonl") as captions:
        assert captions.find(info(f"s3://b.c/set/{key}")) == CaptionRecord.of("read")


@pytest.mark.parametrize(
    "key", ["a%FF.jpg", "https://[", "https://", "https://b/%FF", '="', "%00", "~%00", '="file://h/x"']
)
def test_a_key_that_cannot_be_read_otherwise_is_unmatched(key: str) -> None:
    with loaded(lines({"key": key, "caption": "a"})) as captions:
        assert captions.find(info("s3://b/set/1.jpg")) is None
        assert captions.unmatched_keys() == [key]


@pytest.mark.parametrize(
    ("key", "object_uri"),
    [
        ("https://b.s3.amazonaws.com/a#1.jpg", "s3://b/a#1.jpg"),
        ("https://b.s3.amazonaws.com/a%231.jpg?versionId=1", "s3://b/a#1.jpg"),
        ("https://cdn.example.com/photos/a.jpg", "s3://photos/a.jpg"),
    ],
)
def test_an_address_is_read_as_the_object_that_it_may_name(key: str, object_uri: str) -> None:
    with loaded(lines({"key": key, "caption": "a"})) as captions:
        assert captions.find(info(object_uri)) == CaptionRecord.of("a")


def test_a_key_that_is_given_in_memory_has_no_other_reading() -> None:
    with Captions.given({"s3://b/a%20b.jpg": "a"}, "s3://b/") as captions:
        assert captions.find(info("s3://b/a b.jpg")) is None


@pytest.mark.parametrize("left", [3, 2, 1])
def test_uris_precede_object_keys_and_object_keys_precede_relative_paths(left: int) -> None:
    rows = [("1.jpg", "relative"), ("set/1.jpg", "key"), ("s3://b/set/1.jpg", "uri")][:left]
    with loaded(lines(*({"key": key, "caption": caption} for key, caption in rows))) as captions:
        found = captions.find(info("s3://b/set/1.jpg"))
    assert found == CaptionRecord.of(rows[-1][1])


@pytest.mark.parametrize(
    "key", ["{directory}/ü b.jpg", "file://{directory}/ü b.jpg", "ü b.jpg", "file://{directory}/%C3%BC%20b.jpg"]
)
def test_keys_of_local_files_are_paths_or_uris(key: str, tmp_path: Path) -> None:
    (tmp_path / "ü b.jpg").touch()
    (tmp_path / "captions.json").write_text(json.dumps({key.format(directory=tmp_path): "here"}))
    with Objects() as objects, Captions.load(str(tmp_path / "captions.json"), objects) as captions:
        assert captions.find(info(str(tmp_path / "ü b.jpg"))) == CaptionRecord.of("here")


@pytest.mark.parametrize("in_file", ["NFC", "NFD"])
@pytest.mark.parametrize("in_bucket", ["NFC", "NFD"])
def test_keys_match_in_nfc_and_nfd(in_file: Any, in_bucket: Any) -> None:
    name = "Größe é.jpg"
    with loaded(lines({"key": unicodedata.normalize(in_file, name), "caption": "here"})) as captions:
        assert captions.find(info("s3://b/set/" + unicodedata.normalize(in_bucket, name))) == CaptionRecord.of("here")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_last_of_repeated_keys_is_used_with_a_warning(suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("1.jpg", "one"), ("2.jpg", "other"), ("1.jpg", "two"), ("1.jpg", "three")]
    content = lines(*({"key": key, "caption": caption} for key, caption in rows))
    if suffix == "json":
        content = ("{" + ",".join(f'"{key}": "{caption}"' for key, caption in rows) + "}").encode()
    with caplog.at_level(logging.WARNING), loaded(content, f"s3://b/captions.{suffix}") as captions:
        assert captions.find(info("s3://b/1.jpg")) == CaptionRecord.of("three")
        assert captions.duplicates == 2
        assert captions.unmatched() == 1
    assert f"Repeated keys in s3://b/captions.{suffix}: 2;" in caplog.text


def test_objects_may_exceed_the_size_of_one_query_and_keep_their_order() -> None:
    rows = [{"key": f"{number}.jpg", "caption": str(number)} for number in range(0, 2000, 2)]
    with loaded(lines(*rows)) as captions:
        found = captions.find_many([info(f"s3://b/set/{number}.jpg") for number in range(2000)])
        assert captions.unmatched() == 0
    assert [record and record.caption for record in found] == [
        None if number % 2 else str(number) for number in range(2000)
    ]
