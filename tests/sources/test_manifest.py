"""Manifests: each object once with its sources; an incomplete listing is an error."""

import gzip
import io
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sources.faulty import FaultyS3, error, page
from viewfinder.errors import ConfigurationError, SourceError, ViewfinderError
from viewfinder.sources.captions import CaptionRecord, Captions
from viewfinder.sources.manifest import MANIFEST_SCHEMA, PART_ROWS, Manifest, write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.patterns import Patterns
from viewfinder.sources.uris import file_uri
from viewfinder.testing.objects import MemoryObjects

pytestmark = pytest.mark.slow

Row = dict[str, Any]


def _rows(manifest: Manifest) -> list[Row]:
    rows: list[Row] = [row for path in manifest.paths for row in pq.read_table(path).to_pylist()]
    return rows


def _list(contents: Mapping[str, bytes] | Sequence[str], *sources: str, directory: Path, **options: Any) -> list[Row]:
    """Return the rows of a bucket `b` with these keys, or of these URIs."""
    given = contents if isinstance(contents, Mapping) else {f"s3://b/{key}": b"x" for key in contents}
    with Objects(s3=MemoryObjects(given)) as objects:
        return _rows(write_manifest(sources, directory, objects, **options))


def _keys(rows: Sequence[Row]) -> list[str]:
    return sorted(row["key"] for row in rows)


def _parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


# Listing


def test_a_row_contains_the_properties_in_the_listing(tmp_path: Path) -> None:
    with Objects(s3=MemoryObjects({"s3://b/p/a b#%20.jpg": b"12345", "s3://b/p2": b""})) as objects:
        manifest = write_manifest(["s3://b/p/"], tmp_path, objects)
        etag = objects.stat("s3://b/p/a b#%20.jpg").etag
    assert pq.read_schema(manifest.paths[0]).equals(MANIFEST_SCHEMA)
    assert _rows(manifest) == [
        {
            "uri": "s3://b/p/a b#%20.jpg",
            "bucket": "b",
            "key": "p/a b#%20.jpg",
            "size": 5,
            "etag": etag,
            "last_modified": "",
            "sources": ["s3://b/p"],
            "skip": None,
            "caption": None,
            "caption_hash": None,
            "caption_details": None,
        }
    ]
    assert (manifest.listed, manifest.bytes) == (1, 5)
    assert manifest.sources == ({"source": "s3://b/p", "include": [], "exclude": [], "captions": []},)


def test_text_and_table_files_are_not_listed_and_all_others_are(tmp_path: Path) -> None:
    tables = ["c.jsonl", "m.csv", "m.parquet", "t.tsv", "c.csv.gz", "j.json.gz"]
    keys = ["1.jpg", "1.txt", "1.JSON", *tables, "noext", "page.html", "d/", "d/x.jpg.txt.png"]
    contents = {f"s3://b/{key}": b"" for key in keys}
    assert _keys(_list(contents, "s3://b", directory=tmp_path)) == ["1.jpg", "d/x.jpg.txt.png", "noext", "page.html"]


def test_a_source_that_is_an_object_is_listed_whatever_its_name(tmp_path: Path) -> None:
    assert _keys(_list(["odd.txt"], "s3://b/odd.txt", directory=tmp_path, include=["*.jpg"])) == ["odd.txt"]


def test_a_local_directory_is_listed_by_file_uri(tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    for name in ["ü 1.jpg", "deep/2.jpg", ".thumbs/2.jpg", "captions.jsonl"]:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"x")
    with Objects() as objects:
        rows = _rows(write_manifest([str(photos)], tmp_path, objects))
    assert {row["uri"] for row in rows} == {file_uri(str(photos / name)) for name in ("deep/2.jpg", "ü 1.jpg")}
    assert {source for row in rows for source in row["sources"]} == {file_uri(str(photos))}
    assert all(row["etag"] and row["size"] == 1 and row["last_modified"].endswith("Z") for row in rows)


PATTERNS = [
    ("*.jpg", "a.jpg", True),
    ("*.jpg", "deep/er/a.jpg", True),
    ("*.jpg", "a.JPG", False),
    ("a*", "deep/abc", True),
    ("deep", "deep/abc", False),
    ("deep/*", "deep/abc", True),
    ("deep/*", "deep/er/abc", False),
    ("deep/**", "deep/er/abc", True),
    ("deep/", "deep/er/abc", True),
    ("er/", "deep/er/abc", False),
    ("**/er/", "deep/er/abc", True),
    ("**/er/*", "er/abc", True),
    ("deep/**/abc", "deep/abc", True),
    ("deep/**/abc", "deep/e/r/abc", True),
    ("deep/**/abc", "deeper/abc", False),
    ("/*.jpg", "a.jpg", True),
    ("/a.jpg", "deep/a.jpg", False),
    ("?.jpg", "ü.jpg", True),
    ("?.jpg", "ab.jpg", False),
    ("[ab].jpg", "b.jpg", True),
    ("[!ab].jpg", "b.jpg", False),
    ("[!ab].jpg", "c.jpg", True),
    ("x[!a]y/z", "x/y/z", False),
    ("[0-9]*", "7up", True),
    ("[]].jpg", "].jpg", True),
    ("[\\d].jpg", "1.jpg", False),
    ("a+(b).jpg", "a+(b).jpg", True),
    ("a[.jpg", "a[.jpg", True),
    ("*\n*", "a\nb", True),
]


@pytest.mark.parametrize(("pattern", "relative", "matches"), PATTERNS)
def test_patterns_match_as_documented(pattern: str, relative: str, matches: bool) -> None:
    assert Patterns(include=(pattern,)).accept(relative) is matches
    assert Patterns(exclude=(pattern,)).accept(relative) is not matches


@pytest.mark.parametrize("pattern", ["Café*.jpg", "**/café/*", "caf[éè].jpg"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_pattern_matches_however_letters_are_composed(pattern: str, form: Any) -> None:
    relative = {"C": "Café 1.jpg", "*": "a/café/1.jpg", "c": "café.jpg"}[pattern[0]]
    other = "NFD" if form == "NFC" else "NFC"
    patterns = Patterns(exclude=(unicodedata.normalize(form, pattern),))
    assert not patterns.accept(unicodedata.normalize(other, relative))


@pytest.mark.parametrize("pattern", ["", "[z-a]"])
def test_an_invalid_pattern_is_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        _list(["1.jpg"], "s3://b", directory=tmp_path, exclude=[pattern])


def test_patterns_apply_below_each_source(tmp_path: Path) -> None:
    keys = ["p/a/1.jpg", "p/a/2.png", "p/thumbs/1.jpg", "a/1.jpg", "q/3.jpg"]
    rows = _list(keys, "s3://b/p", directory=tmp_path, include=["*.jpg", "*.gif"], exclude=["thumbs/*"])
    assert _keys(rows) == ["p/a/1.jpg"]


def test_patterns_for_local_files_are_not_percent_encoded(tmp_path: Path) -> None:
    (tmp_path / "mein Bild ü.jpg").touch()
    (tmp_path / "other.jpg").touch()
    (tmp_path / "out").mkdir()
    with Objects() as objects:
        rows = _rows(write_manifest([str(tmp_path)], tmp_path / "out", objects, include=["mein * ü.jpg"]))
    assert [Path(row["key"]).name for row in rows] == ["mein Bild ü.jpg"]


def _skips(rows: Sequence[Row]) -> dict[str, str | None]:
    return {row["key"]: row["skip"] for row in rows}


def test_objects_that_are_not_to_be_indexed_are_listed_with_the_reason(tmp_path: Path) -> None:
    contents = {f"s3://b/{key}": b"x" for key in ["a.jpg", "._a.jpg", "v.mp4", "__MACOSX/b.jpg", "old.jpg"]}
    with Objects(s3=MemoryObjects(contents, archived=["s3://b/old.jpg", "s3://b/v.mp4"])) as objects:
        rows = _rows(write_manifest(["s3://b"], tmp_path, objects))
    assert _skips(rows) == {
        "a.jpg": None,
        "._a.jpg": "hidden",
        "v.mp4": "video",
        "__MACOSX/b.jpg": "hidden",
        "old.jpg": "archived",
    }


def test_a_source_that_names_a_hidden_object_wants_it(tmp_path: Path) -> None:
    keys = [".x/1.jpg", ".x/._2.jpg", "v.mp4", "w.mp4"]
    rows = _list(keys, "s3://b", "s3://b/.x", "s3://b/v.mp4", directory=tmp_path)
    assert {row["key"]: (row["skip"], row["sources"]) for row in rows} == {
        ".x/1.jpg": (None, ["s3://b/.x"]),
        ".x/._2.jpg": ("hidden", ["s3://b", "s3://b/.x"]),
        "v.mp4": (None, ["s3://b/v.mp4"]),
        "w.mp4": ("video", ["s3://b"]),
    }


def test_in_a_manifest_file_only_the_last_part_of_a_key_is_looked_at(tmp_path: Path) -> None:
    content = {"s3://b/m.csv": b"uri\n.cache/1.jpg\n.cache/.DS_Store\nv.mp4\n"}
    rows = _list(content, "s3://b/m.csv", directory=tmp_path)
    assert _skips(rows) == {".cache/1.jpg": None, ".cache/.DS_Store": "hidden", "v.mp4": "video"}


# Several sources


def test_an_object_of_several_sources_has_one_row_with_all_of_them(tmp_path: Path) -> None:
    keys = ["p/1.jpg", "p/q/2.jpg", "p2/3.jpg", "p"]
    rows = _list(keys, "s3://b/p/q", "s3://b/p", "s3://b/p/", "s3://b/p", directory=tmp_path)
    assert {row["key"]: row["sources"] for row in rows} == {
        "p": ["s3://b/p"],
        "p/1.jpg": ["s3://b/p"],
        "p/q/2.jpg": ["s3://b/p", "s3://b/p/q"],
    }
    assert len(rows) == 3


def test_doubled_slashes_are_another_prefix(tmp_path: Path) -> None:
    rows = _list(["p//1.jpg", "p/2.jpg"], "s3://b/p//", "s3://b/p/", directory=tmp_path)
    assert {row["key"]: row["sources"] for row in rows} == {
        "p//1.jpg": ["s3://b/p", "s3://b/p//"],
        "p/2.jpg": ["s3://b/p"],
    }


def test_a_hidden_directory_can_be_a_source_beside_its_parent(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "1.jpg").touch()
    (tmp_path / "2.jpg").touch()
    (tmp_path / "out").mkdir()
    with Objects() as objects:
        rows = _rows(write_manifest([str(tmp_path), str(tmp_path / ".hidden")], tmp_path / "out", objects))
    assert {Path(row["key"]).name: len(row["sources"]) for row in rows} == {"1.jpg": 1, "2.jpg": 1}


@pytest.mark.parametrize("max_objects", [1, 3, 4, 100])
def test_a_limit_selects_the_same_objects_on_each_run(max_objects: int, tmp_path: Path) -> None:
    keys = [f"p/{number}.jpg" for number in range(4)]
    rows = _list(keys, "s3://b/p", directory=tmp_path, max_objects=max_objects)
    assert [row["key"] for row in rows] == keys[:max_objects]


# Manifest files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", b"uri,size,etag\r\ns3://b/p/1.jpg,7,\"e1\"\r\ns3://c/2.jpg,,\r\n"),
        ("m.CSV", b"\xef\xbb\xbfname,url,size,etag\nx,1.jpg,7,e1\nx,s3://c/2.jpg,,\n"),
        ("m.csv", b"etag,path,size\ne1,./1.jpg,7\n,s3://c/2.jpg,no\n"),
        ("m.csv", b"etag,path,size\ne1,../p/1.jpg,7\n,s3://c/2.jpg,\n"),
        ("m.parquet", _parquet(uri=["1.jpg", "s3://c/2.jpg"], size=[7, None], etag=['"e1"', None])),
        ("m.csv", "URI; Size;ETag;\r\n1.jpg;7;e1;\r\n;;;\r\ns3://c/2.jpg;;;\r\n".encode("utf-16")),
        ("m.tsv", b"uri\tsize\tetag\n1.jpg\t7\te1\ns3://c/2.jpg\n"),
        ("m.csv.gz", gzip.compress(b"uri,size,etag\n1.jpg,7,e1\ns3://c/2.jpg\n")),
        ("m.jsonl", b'{"URI": "1.jpg", "size": 7, "etag": "e1"}\n{"uri": "s3://c/2.jpg"}\n'),
        ("m.jsonl.gz", gzip.compress(b'{"path": "1.jpg", "size": 7, "etag": "e1"}\n{"url": "s3://c/2.jpg"}\n')),
    ],
)  # fmt: skip
def test_a_manifest_file_lists_uris_sizes_and_etags(name: str, content: bytes, tmp_path: Path) -> None:
    rows = _list({f"s3://b/p/{name}": content}, f"s3://b/p/{name}", directory=tmp_path)
    assert [(row["uri"], row["size"], row["etag"]) for row in rows] == [
        ("s3://b/p/1.jpg", 7, "e1"),
        ("s3://c/2.jpg", -1, ""),
    ]
    assert all(row["sources"] == [f"s3://b/p/{name}"] for row in rows)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_of_part_files_is_one_manifest(slash: str, tmp_path: Path) -> None:
    contents = {
        "s3://b/p/m.parquet/_SUCCESS": b"",
        "s3://b/p/m.parquet/part-0.snappy.parquet": _parquet(uri=["1.jpg"]),
        "s3://b/p/m.parquet/year=2024/part-0.parquet": _parquet(uri=["s3://c/2.jpg"]),
    }
    rows = _list(contents, f"s3://b/p/m.parquet{slash}", directory=tmp_path)
    assert sorted(row["uri"] for row in rows) == ["s3://b/p/1.jpg", "s3://c/2.jpg"]
    assert {source for row in rows for source in row["sources"]} == {"s3://b/p/m.parquet"}


def test_a_single_column_of_a_manifest_file_may_have_any_name(tmp_path: Path) -> None:
    rows = _list({"s3://b/m.csv": b"photo\n1.jpg\n2 b.jpg\n1.jpg\n"}, "s3://b/m.csv", directory=tmp_path)
    assert _keys(rows) == ["1.jpg", "2 b.jpg"]


def test_relative_paths_in_a_local_manifest_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path\na b.jpg\n../up.jpg\n/abs/x.jpg\ns3://b/k\n")
    with Objects() as objects:
        rows = _rows(write_manifest([str(tmp_path / "m.csv")], tmp_path, objects))
    names = [str(tmp_path / "a b.jpg"), str(tmp_path.parent / "up.jpg"), "/abs/x.jpg"]
    assert sorted(row["uri"] for row in rows) == sorted([*map(file_uri, names), "s3://b/k"])


def test_objects_in_manifest_files_and_prefixes_have_one_row(tmp_path: Path) -> None:
    contents = {
        "s3://b/p/1.jpg": b"1",
        "s3://b/p/2.jpg": b"2",
        "s3://b/m 1.csv": b"uri\np/1.jpg\ns3://c/3.jpg\np/gone.jpg\n",
        "s3://b/m 2.csv": b"uri,size\ns3://c/3.jpg,9\np/1.jpg,9\n",
    }
    rows = _list(contents, "s3://b/m 1.csv", "s3://b/p", "s3://b/m 2.csv", directory=tmp_path)
    assert {row["key"]: row["sources"] for row in rows} == {
        "p/1.jpg": ["s3://b/m 1.csv", "s3://b/m 2.csv", "s3://b/p"],
        "p/2.jpg": ["s3://b/p"],
        "3.jpg": ["s3://b/m 1.csv", "s3://b/m 2.csv"],
        "p/gone.jpg": ["s3://b/m 1.csv"],
    }
    assert len(rows) == 4
    assert {row["key"]: row["size"] for row in rows}[
        "p/1.jpg"
    ] == 1  # the size in the listing precedes that in a manifest file


def test_patterns_apply_to_manifest_files(tmp_path: Path) -> None:
    content = {"s3://b/m.csv": b"uri\na/1.jpg\na/2.png\nb/3.jpg\n"}
    assert _keys(_list(content, "s3://b/m.csv", directory=tmp_path, include=["a/*"], exclude=["*.png"])) == ["a/1.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"name,size\nx,1\n", "no column `uri`; its columns are name, size"),
        ("m.csv", b"s3://b/1.jpg\ns3://b/2.jpg\n", "no header; insert the line `uri`"),
        ("m.csv", b"", "no column `uri`; its columns are none"),
        ("m.csv", b"uri,size\n1.jpg,1\n,2\n", "No URI .*line 3"),
        ("m.csv", b"uri\nhttp://x/1.jpg\n", "http:// is not supported.*line 2"),
        ("m.csv", b"uri\n/home/me/1.jpg\n", "local path.*line 2"),
        ("m.csv", b"uri\n1.jpg\n\xff.jpg\n", "line 3 is not UTF-8"),
        ("m.jsonl", b'{"uri": "1.jpg"}\n{"uri": 2}\n', "No URI .*line 2"),
        ("m.jsonl", b'{"name": "1.jpg", "size": 2}\n', "no column `uri`; its columns are name, size"),
        ("m.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("m.parquet", _parquet(uri=["1.jpg", None]), "No URI .*row 2"),
        ("m.parquet", _parquet(uri=[1]), "No URI .*row 1"),
    ],
)
def test_an_invalid_manifest_file_is_refused_with_the_line_or_row(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    uri = f"s3://b/{name}"
    with pytest.raises(ConfigurationError, match=message) as caught:
        _list({uri: content}, uri, directory=tmp_path)
    assert repr(uri) in str(caught.value)


def test_a_missing_manifest_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"manifest 's3://b/m\.csv' cannot be read"):
        _list(["1.jpg"], "s3://b/m.csv", directory=tmp_path)


# Complete runs


def test_rows_contain_the_captions_of_their_objects(tmp_path: Path) -> None:
    contents = {f"s3://b/{number:03}.jpg": b"x" for number in range(600)}
    contents["s3://b/captions.jsonl"] = b'{"key": "007.jpg", "caption": "agent"}\n{"key": "599.jpg", "tags": ["last"]}'
    with (
        Objects(s3=MemoryObjects(contents)) as objects,
        Captions.load("s3://b/captions.jsonl", objects) as captions,
    ):
        manifest = write_manifest(["s3://b"], tmp_path, objects, captions=captions)
    columns = ("caption", "caption_hash", "caption_details")
    found = {
        row["key"]: CaptionRecord(*(row[name] for name in columns)) for row in _rows(manifest) if row["caption_hash"]
    }
    assert found == {"007.jpg": CaptionRecord.of("agent"), "599.jpg": CaptionRecord.of(None, ("last",))}
    assert manifest.sources[0]["captions"] == ["s3://b/captions.jsonl"]


def test_many_rows_are_written_to_several_part_files(tmp_path: Path) -> None:
    counted: list[int] = []
    names = "\n".join(f"{number:06}.jpg" for number in range(PART_ROWS + 10_000))
    contents = {"s3://b/m.csv": f"uri\n{names}".encode()}
    with Objects(s3=MemoryObjects(contents)) as objects:
        manifest = write_manifest(["s3://b/m.csv"], tmp_path, objects, progress=counted.append)
    uris = Counter(uri for path in manifest.paths for uri in pq.read_table(path, columns=["uri"])["uri"].to_pylist())
    assert len(manifest.paths) == 2
    assert len(uris) == manifest.listed == PART_ROWS + 10_000
    assert set(uris.values()) == {1}
    assert counted == sorted(counted)
    assert counted[-1] == manifest.listed


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        (["p2/1.jpg"], {}, "no object that could be an image"),
        (["p/1.txt"], {}, "no object that could be an image"),
        (["p/1.jpg"], {"include": ["*.png"]}, "matches --include and --exclude"),
    ],
)
def test_nothing_to_index_is_an_error(keys: list[str], options: Row, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        _list(keys, "s3://b/p", directory=tmp_path, **options)


@pytest.mark.parametrize("max_objects", [None, 100])
def test_an_interrupted_listing_is_an_error_and_not_a_shorter_manifest(max_objects: int | None, tmp_path: Path) -> None:
    with FaultyS3([page("1.jpg", token="t")], then=error(503, "SlowDown")) as server:
        access = server.access(retry_s=0)
        with Objects(access) as objects, pytest.raises(ViewfinderError, match="SlowDown"):
            write_manifest(["s3://b"], tmp_path, objects, max_objects=max_objects)
