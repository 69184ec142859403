"""Canonical URIs, and the ids of points that are made of them."""

import os
import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from tests.sources.odd_names import ODD_KEYS, ODD_NAMES
from viewfinder.errors import SourceError
from viewfinder.sources.access import ObjectAccess, ObjectInfo
from viewfinder.sources.uris import canonical_uri, file_path, file_uri, point_id, s3_parts


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_s3_key_is_unchanged_in_its_uri(key: str) -> None:
    uri = canonical_uri(f"s3://bucket/{key}")
    assert uri == f"s3://bucket/{key}"
    assert s3_parts(uri) == ("bucket", key)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"),
        ("S3://b/p/", "s3://b/p/"),
        ("/data/x.jpg", "file:///data/x.jpg"),
        ("/data//y/../x.jpg/", "file:///data/x.jpg"),
        ("//data/x.jpg", "file:///data/x.jpg"),
        ("/data/a b#?%.jpg", "file:///data/a%20b%23%3F%25.jpg"),
        ("file:///data/a b.jpg", "file:///data/a%20b.jpg"),
        ("file:///data/a%20b.jpg", "file:///data/a%20b.jpg"),
        ("file://localhost/data", "file:///data"),
        ("/", "file:///"),
    ],
)
def test_each_object_has_one_canonical_uri(text: str, uri: str) -> None:
    assert canonical_uri(text) == uri
    assert canonical_uri(uri) == uri


def test_a_relative_path_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical_uri("photos") == file_uri(str(tmp_path / "photos"))


@pytest.mark.parametrize("name", [*ODD_NAMES, os.fsdecode(b"latin-\xe9.jpg"), "a\nb"])
def test_file_names_survive_the_round_trip_through_a_uri(name: str) -> None:
    uri = file_uri(f"/data/{name}")
    assert uri.isascii()
    assert file_path(uri) == f"/data/{name}"
    assert canonical_uri(uri) == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://x/y.jpg", "http:// is not supported"),
        ("gs://b/k", "supported are s3://"),
        ("s3a://b/k", "Write s3:// instead"),
        ("s3://", "has no bucket"),
        ("s3:///k", "has no bucket"),
        ("s3://b/\udc80", "not valid Unicode"),
        ("file://host/x", "three slashes"),
        ("", "empty"),
        ("a\0b", "NUL"),
    ],
)
def test_an_unsupported_source_is_refused_with_what_is_supported(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        canonical_uri(text)


def test_point_ids_never_change() -> None:
    assert point_id("s3://bucket/a b.jpg") == "42fd512b-0975-5f1c-9b5f-e9b9f9b14b14"
    assert point_id("s3://bucket/a%20b.jpg") != point_id("s3://bucket/a b.jpg")


def test_objects_sent_to_workers_can_be_pickled_and_contain_no_credentials() -> None:
    access = ObjectAccess("http://x", threads=4)
    info = ObjectInfo("s3://b/k", "b", "k", 1, "e", "")
    assert pickle.loads(pickle.dumps((access, info))) == (access, info)
    assert not [field.name for field in fields(access) if "key" in field.name or "secret" in field.name]
