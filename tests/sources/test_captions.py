"""Captions files: every format, errors with the line number, hashes of records."""

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sources.caption_contents import info, lines, loaded
from viewfinder.errors import ConfigurationError
from viewfinder.sources.caption_files import CaptionFiles
from viewfinder.sources.captions import CaptionRecord, Captions, check_captions
from viewfinder.sources.objects import Objects
from viewfinder.testing.objects import MemoryObjects

CAT = {"caption": "a cat", "tags": ["pet", "black cat"], "place": "图书馆"}
RECORD = CaptionRecord.of("a cat", ("pet", "black cat"), {"place": "图书馆"})


def _parquet(*rows: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()


CSV = 'key,caption,tags,place\r\n1.jpg,a cat,pet; black cat,图书馆\r\n2.jpg,"two\r\nlines",,\r\n'.encode()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("json", json.dumps({"1.jpg": CAT, "2.jpg": "two\r\nlines"}).encode()),
        ("jsonl", lines({"key": "1.jpg", **CAT}, {"key": "2.jpg", "caption": "two\r\nlines"})),
        (
            "jsonl",
            lines({"key": "1.jpg", **CAT}, {"key": "2.jpg", "caption": "two\r\nlines"}).replace(b"\n", b"\r\n\r\n"),
        ),
        ("csv", CSV),
        ("parquet", _parquet({"key": "1.jpg", **CAT}, {"key": "2.jpg", "caption": "two\r\nlines"})),
    ],
    ids=["json", "jsonl", "jsonl with CRLF", "csv", "parquet"],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_all_formats_give_the_same_records(suffix: str, content: bytes, mark: bytes) -> None:
    content = content if suffix == "parquet" else mark + content
    with loaded(content, f"s3://b/set/captions.{suffix}") as captions:
        first, second, third = captions.find_many([info(f"s3://b/set/{name}.jpg") for name in "123"])
    assert first == RECORD
    assert second == CaptionRecord.of("two\r\nlines")
    assert third is None


TYPED = {
    "key": "1.jpg",
    "caption": "a",
    "year": "2020",
    "f": "2.8",
    "flash": "TRUE",
    "taken": "2024-05-31",
    "n": "007",
}


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("csv", f"{','.join(TYPED)}\n{','.join(TYPED.values())}\n".encode()),
        ("tsv.gz", gzip.compress("\t".join(TYPED).encode() + b"\n" + "\t".join(TYPED.values()).encode())),
        ("jsonl", lines(TYPED)),
        ("json", json.dumps([TYPED]).encode()),
        ("json", json.dumps({"1.jpg": TYPED}).encode()),
        ("parquet", _parquet(TYPED)),
        ("parquet", _parquet(TYPED | {"year": 2020, "f": Decimal("2.8"), "flash": True, "taken": date(2024, 5, 31)})),
    ],
)
def test_numbers_booleans_and_dates_have_the_same_types_in_every_format(suffix: str, content: bytes) -> None:
    with loaded(content, f"s3://b/set/captions.{suffix}") as captions:
        record = captions.find(info("s3://b/set/1.jpg"))
    assert record is not None
    assert record.payload()["meta"] == {"year": 2020, "f": 2.8, "flash": True, "taken": "2024-05-31", "n": "007"}


def test_a_file_that_cannot_be_read_is_left_out_and_its_recorded_types_count(tmp_path: Path) -> None:
    gone, here = "s3://b/gone.csv", "s3://b/here.csv"
    memory = MemoryObjects({here: b"key,caption,year\n1.jpg,a,2020\n"})
    recorded = {"recorded": {"meta.year": "keyword"}, "recorded_files": [gone, here]}
    with Objects(s3=memory) as objects:
        with CaptionFiles.open([(gone, None), (here, None)], objects, leave_out=True, **recorded) as files:
            assert list(files.gone) == [gone]
            assert files.fields == {"meta.year": "keyword"}
            (found,) = files.find_many([(info("s3://b/1.jpg"), ["s3://b"])])
        assert found == CaptionRecord.of("a", meta={"year": "2020"})
        with pytest.raises(ConfigurationError, match=r"s3://b/gone\.csv"):
            CaptionFiles.open([(gone, None)], objects)


# One table as spreadsheets and export tools write it: two images, the second without tags and place.
EXPORTS = {
    "a space after the comma": "key, caption, tags, place\n1.jpg, a cat, pet; black cat, 图书馆\n2.jpg, two",
    "a space and quotes": 'key, caption, tags, place\n1.jpg, "a cat", "pet; black cat", "图书馆"\n2.jpg, "two"',
    "a space before quotes": 'key,caption,tags,place\n1.jpg, "a cat",  "pet; black cat", "图书馆"\n "2.jpg", "two"',
    "semicolons, a space": 'key;caption;tags;place\n1.jpg; "a cat"; "pet; black cat"; "图书馆"\n2.jpg;two',
    "tabs and a space": 'key\tcaption\ttags\tplace\n1.jpg\t "a cat"\t "pet; black cat"\t "图书馆"\n2.jpg\ttwo',
    "capital letters": "Key,CAPTION,Tags,place\n1.jpg,a cat,pet; black cat,图书馆\n2.jpg,two,,",
    "padded": " key  , caption , tags ,place \n 1.jpg , a cat ,pet; black cat, 图书馆 \n2.jpg  ,two,,",
    "quoted header": '"key","caption","tags","place"\n"1.jpg","a cat","pet; black cat","图书馆"\n"2.jpg","two","",""',
    "semicolons": 'Key;Caption;Tags;place\n1.jpg;a cat;"pet; black cat";图书馆\n2.jpg;two;;',
    "more commas than semicolons": 'Key;Caption;Tags;place;a,b,c,d,e\n1.jpg;a cat;"pet; black cat";图书馆\n2.jpg;two',
    "a line that names the delimiter": 'sep=;\nkey;caption;tags;place\n1.jpg;a cat;"pet; black cat";图书馆\n2.jpg;two',
    "tabs": "key\tcaption\ttags\tplace\n1.jpg\ta cat\tpet; black cat\t图书馆\n2.jpg\ttwo\t\t",
    "bars": "key|caption|tags|place\n1.jpg|a cat|pet; black cat|图书馆\n2.jpg|two||",
    "commas in the header's other names": 'key;caption;"tags";place\n1.jpg;a cat;"pet;black cat";图书馆\n2.jpg;two;;',
    "empty columns": "key,caption,tags,place,,\n1.jpg,a cat,pet; black cat,图书馆,,\n2.jpg,two,,,,",
    "a column without a name": ",key,caption,tags,place\n0,1.jpg,a cat,pet; black cat,图书馆\n1,2.jpg,two,,",
    "pandas' name for it": "Unnamed: 0,key,caption,tags,place\n0,1.jpg,a cat,pet; black cat,图书馆\n1,2.jpg,two,,",
    "empty rows": ",,,\n\nkey,caption,tags,place\n\n1.jpg,a cat,pet; black cat,图书馆\n  ,,,\n2.jpg,two,,\n,,,\n\n",
    "a repeated header": "key,caption,tags,place\n1.jpg,a cat,pet; black cat,图书馆\nkey,caption,tags,place\n2.jpg,two",
    "other columns first": "place,tags,caption,key\n图书馆,pet; black cat,a cat,1.jpg\n,,two,2.jpg",
    "invisible characters": (
        "\u202akey\u202c,\u2002caption\u00a0,\u00adtags,place\u3000\n"
        "\u202a1.jpg\u202c,\u200ea cat\u2029,\u2060pet;\u202fblack cat\u200b,图书馆\u00a0\n"
        "\u20662.jpg\u2069,\u1680two\ufeff"
    ),
    "missing values": "key,caption,tags,place\n1.jpg,a cat,pet; black cat,图书馆\n2.jpg,two,\\N,#REF!\n3.jpg,NaN",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("text", EXPORTS.values(), ids=EXPORTS)
def test_exports_of_the_same_table_give_the_same_records(text: str, end: str, encoding: str) -> None:
    """The header `key, caption` put every caption into a field named ` caption`, and erased those of the index."""
    content = text.replace("\n", end).encode(encoding)
    with loaded(content, "s3://b/set/captions.csv") as captions:
        found = captions.find_many([info(f"s3://b/set/{name}.jpg") for name in "12"])
        assert captions.unmatched() == 0
    assert found == [RECORD, CaptionRecord.of("two")]


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ('1.jpg, "a red, car"\n2.jpg,two', ["a red, car", "two"]),
        ('1.jpg, "Stop" sign\n2.jpg, "two"', ['"Stop" sign', "two"]),
        ('1.jpg,"one\n""line""\nmore"\n2.jpg,two', ['one\n"line"\nmore', "two"]),
        ('1.jpg,"cats" \n2.jpg,"two, 2"\u00a0', ["cats", "two, 2"]),
        ('1.jpg, "open\n2.jpg, two', ['"open', "two"]),
        ('1.jpg, "open\n2.jpg, "Stop" sign"', ['"open', '"Stop" sign"']),
        ('1.jpg,say "no"\n2.jpg,a "b", c', "more cells"),
        (f'1.jpg,{"x" * 200_000}\n2.jpg,"{"y," * 200_000}"', ["x" * 200_000, "y," * 200_000]),
        (f'1.jpg,"x"\n2.jpg, "{"y," * 200_000}"', ["x", "y," * 200_000]),
    ],
    ids=range(9),
)
def test_a_quote_after_a_space_opens_a_cell_unless_it_is_a_part_of_the_text(text: str, captions: Any) -> None:
    content = f"key,caption\n{text}\n".encode()
    if isinstance(captions, str):
        with pytest.raises(ConfigurationError, match=f"line 3 has {captions}"), loaded(content, "s3://b/c.csv"):
            pass
        return
    with loaded(content, "s3://b/c.csv") as found:
        records = found.find_many([info(f"s3://b/{name}.jpg") for name in "12"])
    assert [each and each.caption for each in records] == captions


@pytest.mark.parametrize(
    ("text", "records"),
    [
        ('key, caption, tags\na.jpg, "cats, dogs" , \n', {"a": CaptionRecord.of("cats, dogs")}),
        (
            'key, caption, tags, n\na.jpg, "cats, dogs" , pets, "1"\t',
            {"a": CaptionRecord.of("cats, dogs", ["pets"], {"n": 1})},
        ),
        ('key, caption\na.jpg, "cats and dogs" \n', {"a": CaptionRecord.of("cats and dogs")}),
        ('key\tcaption\ttags\n"a.jpg" \t\t "x;y" ', {"a": CaptionRecord.of(None, ["x", "y"])}),
        ('"key" ,"cap ""n""" , caption \na.jpg,, "x" \n', {"a": CaptionRecord.of("x")}),
        (
            'key,caption\na.jpg, "5 inch\nb.jpg,x\nc.jpg,7"\nd.jpg,z',
            {name: CaptionRecord.of(text) for name, text in zip("abcd", ('"5 inch', "x", '7"', "z"), strict=True)},
        ),
        *(
            (
                f'{header}\na.jpg, "one\n""line"",\nmore" , "x\ny"\nb.jpg, "Stop" sign',
                {"a": CaptionRecord.of('one\n"line",\nmore', ["x\ny"]), "b": CaptionRecord.of('"Stop" sign')},
            )
            for header in ("key, caption, tags", '"key","caption","tags"')
        ),
    ],
    ids=range(8),
)
def test_blanks_around_quotes_are_no_text_and_quotes_after_them_close_as_the_header_does(
    text: str, records: dict[str, CaptionRecord]
) -> None:
    with loaded(text.encode(), "s3://b/c.csv") as captions:
        found = captions.find_many([info(f"s3://b/{name}.jpg") for name in records])
        assert captions.unmatched() == 0
    assert found == list(records.values())


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_joiners_at_the_end_of_a_word_are_a_part_of_it(suffix: str) -> None:
    """The last letter of this Malayalam word is written as virama and joiner."""
    word = "അവന\u0d4d\u200d"
    content = f"key,caption,tags\n1.jpg,{word} ,{word}; x\n".encode()
    if suffix == "jsonl":
        content = lines({"key": "1.jpg", "caption": f"{word} ", "tags": [word, "x"]})
    with loaded(content, f"s3://b/c.{suffix}") as captions:
        assert captions.find(info("s3://b/1.jpg")) == CaptionRecord.of(word, [word, "x"])


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("key,caption", '2.jpg,"open\n3.jpg,c'),
        ("key, caption", '2.jpg, "open'),
        ("key, caption", '2.jpg, "open\n3.jpg, "Stop" sign'),
    ],
)
def test_an_error_names_the_line_where_the_record_begins(header: str, rows: str) -> None:
    content = f"{header}\n1.jpg,a\n{rows}\n".encode()
    with pytest.raises(ConfigurationError, match="line 3 is not CSV"), loaded(content, "s3://b/c.csv"):
        pass


MISSING = ["\\N", "NaN", "nan", "<NA>", "NULL", "null", "NaT", "#N/A", "#REF!", "#VALUE!", "#NAME?"]
WORDS = ["None", "NA", "N/A"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("word", [*MISSING, *WORDS])
def test_a_word_for_a_missing_value_is_an_empty_cell(word: str, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Exports of pandas and databases overwrote captions with NaN and NULL."""
    row = {"key": "1.jpg", "caption": word, "tags": word, "place": "here", "note": word}
    content = {
        "csv": ",".join(row) + "\n" + ",".join(row.values()),
        "jsonl": json.dumps(row),
        "json": json.dumps([row]),
        "parquet": "",
    }[suffix].encode()
    with loaded(content or _parquet(row), f"s3://b/c.{suffix}") as captions:
        found = captions.find(info("s3://b/1.jpg"))
    assert found == CaptionRecord.of(None, meta={"place": "here"} | ({"note": word} if word in WORDS else {}))
    assert f"stand for no value: {2 if word in WORDS else 3}, most often {word!r}" in caplog.text


@pytest.mark.parametrize("text", ["na", "nil", "none", "Nan", "Null", "None of them", "NULL; island", "#sunset"])
def test_a_word_that_may_be_a_text_is_one(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with loaded(lines({"key": "1.jpg", "caption": text, "tags": ["NA"]})) as captions:
        assert captions.find(info("s3://b/set/1.jpg")) == CaptionRecord.of(text, ["NA"])
    assert "no value" not in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        pa.array([b"1.jpg"]),
        pa.array([b"1.jpg"]).dictionary_encode(),
        pa.array([b"1.jpg"], pa.large_binary()),
        pa.array([b"1.jpg"], pa.binary(5)),
        pa.array([b"1.jpg\0\0\0"], pa.binary(8)),
    ],
    ids=lambda key: str(key.type),
)
def test_bytes_of_parquet_are_text(key: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": key, "caption": ["a"]}), sink)
    with loaded(sink.getvalue().to_pybytes(), "s3://b/set/c.parquet") as captions:
        assert captions.find(info("s3://b/set/1.jpg")) == CaptionRecord.of("a")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("tsv", CSV.replace(b",", b"\t")),
        ("csv.gz", gzip.compress(CSV)),
        ("csv", gzip.compress(CSV)),
        ("CSV.GZ", CSV),  # a store that decodes gzip itself
        ("tsv.gz", gzip.compress(CSV.replace(b",", b"\t"))),
        ("ndjson.gz", gzip.compress(lines({"Key": "1.jpg", **CAT}, {" key": "2.jpg", "Caption": "two\r\nlines"}))),
        ("json", json.dumps([{"key": "1.jpg", **CAT}, {"Key": "2.jpg", "Caption": "two\r\nlines"}]).encode("utf-16")),
        ("json.gz", gzip.compress(json.dumps({"1.jpg": CAT, "2.jpg": {"Caption": "two\r\nlines"}}).encode())),
        ("parquet.gz", gzip.compress(_parquet({"key": "1.jpg", **CAT}, {"key": "2.jpg", "caption": "two\r\nlines"}))),
        (
            "parquet",
            _parquet(
                {"Key": b"1.jpg", "Caption ": b"a cat", "tags": CAT["tags"], "place": "图书馆", "__index_level_0__": 0},
                {"Key": b"2.jpg", "Caption ": b"two\r\nlines", "__index_level_0__": 1},
            ),
        ),
    ],
)
def test_other_formats_give_the_same_records(suffix: str, content: bytes) -> None:
    with loaded(content, f"s3://b/set/captions.{suffix}") as captions:
        found = captions.find_many([info(f"s3://b/set/{name}.jpg") for name in "12"])
    assert found == [RECORD, CaptionRecord.of("two\r\nlines")]


PARTS = {
    "parquet": (_parquet({"key": "1.jpg", **CAT}), _parquet({"key": "2.jpg", "caption": "two"})),
    "csv": ("key,caption,tags,place\n1.jpg,a cat,pet;black cat,图书馆\n".encode(), b"key,caption\n2.jpg,two\n"),
    "json": (lines({"key": "1.jpg", **CAT}), lines({"key": "2.jpg", "caption": "two"})),
}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("suffix", PARTS)
def test_a_directory_of_part_files_is_one_captions_file(suffix: str, slash: str) -> None:
    first, second = PARTS[suffix]
    directory = f"s3://b/set/captions.{suffix}"
    contents = {
        f"{directory}/_SUCCESS": b"",
        f"{directory}/_committed_1": b"{}",
        f"{directory}/.part-00000.crc": b"crc",
        f"{directory}/part-00000-ab.c000.{suffix}": first,
        f"{directory}/part-00001-ab.c000.{suffix}.gz": gzip.compress(second),
    }
    with (
        Objects(s3=MemoryObjects(contents)) as objects,
        Captions.load(directory + slash, objects) as captions,
    ):
        check_captions(directory + slash, objects)
        found = captions.find_many([info(f"s3://b/set/{name}.jpg") for name in "12"])
    assert found == [RECORD, CaptionRecord.of("two")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["_temporary/0/part-0.parquet", "part-1.parquet"], "still being written.*_temporary"),
        (["_SUCCESS", "_metadata"], "no part files; its files are '_SUCCESS', '_metadata'"),
        ([], "cannot be read"),
    ],
)
def test_a_directory_without_complete_part_files_is_refused(names: list[str], message: str) -> None:
    contents = {f"s3://b/c.parquet/{name}": b"x" for name in names}
    with Objects(s3=MemoryObjects(contents)) as objects:
        for use in (check_captions, Captions.load):
            with pytest.raises(ConfigurationError, match=rf"--captions: .*{message}"):
                use("s3://b/c.parquet", objects)


def test_a_local_directory_of_part_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.csv").mkdir()
    (tmp_path / "c.csv" / "part-0").write_bytes(b"key,caption\n1.jpg,here\n")
    (tmp_path / "1.jpg").touch()
    with Objects() as objects, Captions.load(f"{tmp_path}/c.csv/", objects) as captions:
        assert captions.find(info(str(tmp_path / "1.jpg"))) == CaptionRecord.of("here")


def test_a_file_without_rows_is_accepted() -> None:
    for content, suffix in ((b"key,caption\n", "csv"), (b"{}", "json"), (b"", "jsonl")):
        with loaded(content, f"s3://b/c.{suffix}") as captions:
            assert captions.unmatched() == 0


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("jsonl", b'{"key": "a"}\n\n{"key": \n', r"line 3 is not JSON"),
        ("jsonl", b'{"key": "a"}\n["b"]\n', r"line 2 contains a JSON list; expected an object"),
        ("jsonl", b'[{"key": "a", "caption": "b"}]', r"line 1 contains a JSON list; .* name it \.json"),
        ("json", b'{"key": "a"}\n{"key": "b"}\n', r"line 2.* name the file \.jsonl"),
        ("csv", b"PK\x03\x04" + bytes(30), r"is a ZIP archive or an Excel workbook; save it as CSV"),
        ("csv", b"PAR1", r"is a Parquet file"),
        ("parquet", _parquet({"key": "a", "caption": "b", "photo": b"\xff\xd8"}), r"column 'photo' contains bytes"),
        ("jsonl", b'{"file": "a", "text": "b"}\n', r"line 1 has no `key`.*it has file, text"),
        ("jsonl", b'{"key": "a", "caption": 3}\n', r"line 1: `caption` is a JSON number"),
        ("jsonl", b'{"key": "a", "tags": "x"}\n', r"line 1: `tags` must be a list of strings, not 'x'"),
        ("jsonl", b'{"key": "a"}\n{"key": "\xff"}\n', r"line 2 is not UTF-8"),
        ("jsonl", b'{"key": "a", "size": NaN}\n', r"line 1 contains NaN"),
        ("jsonl", b'{"key": "a", "caption": "\\ud800"}\n', r"line 1 contains a lone surrogate"),
        ("json", b'{"a": "b",\n"c" "d"}', r"not JSON: .*line 2"),
        ("json", b'"a"', r"contains a JSON string; expected an object {path: text}"),
        ("json", b'["a"]', r"entry 1 is a JSON string; expected an object"),
        ("json", b'[{"path": "a", "caption": "b"}]', r"entry 1 has no `key`.*it has caption, path"),
        ("json", b'{"a": {"text": "b"}}', r"no column `caption`; its columns are 'text'"),
        ("jsonl", b'{"key": "a", "text": "b"}', r"no column `caption`; its columns are 'key', 'text'"),
        ("jsonl", b'{"key": "a", "caption": "b", "Caption": "c"}', r"line 1 has the column 'caption' twice"),
        ("json", b'{"a": 1}', r"at key 'a': `caption` is a JSON number"),
        ("json", b'{"a":\n "\xff"}', r"line 2 is not UTF-8"),
        ("csv", b"key,caption\na,b\nc,d,e\n", r"line 3 has more cells"),
        ("csv", b"name,caption\na,b\n", r"no column `key`; its columns are 'name', 'caption'"),
        ("csv", b"key,text\na,b\n", r"no column `caption`; its columns are 'key', 'text'"),
        ("csv", b"key,caption, Caption\na,b,c\n", r"line 1 has the column 'caption' twice"),
        ("csv", b"key,caption,note,note\na,b,c,d\n", r"line 1 has the column 'note' twice"),
        ("csv", b"", r"no column `key`; its columns are none"),
        ("tsv", "key\ttext\na\tb\n".encode("utf-16"), r"no column `caption`; its columns are 'key', 'text'"),
        ("csv", "key,caption\na,b\n".encode("utf-16")[:-1], r"not UTF-16 text"),
        ("csv.gz", gzip.compress(b"key,caption\na,b\n")[:-9], r"not a complete gzip file"),
        ("parquet", _parquet({"Path": "a", "Text": "x"}), r"no column `key`; its columns are 'Path', 'Text'"),
        ("csv", b"key,caption\na,b\n\xff,d\n", r"line 3 is not UTF-8"),
        ("csv", b'key,caption\na,"b" c\n', r"line 2 is not CSV"),
        ("parquet", b"PAR1 no", r"not a readable Parquet file"),
        ("parquet", _parquet({"key": None, "caption": "x"}), r"row 1 has no `key`"),
        ("xml", b"", r"must end in one of \.json"),
    ],
)
def test_an_invalid_file_is_refused_with_the_place_and_what_was_expected(
    suffix: str, content: bytes, message: str
) -> None:
    uri = f"s3://b/set/captions.{suffix}"
    with pytest.raises(ConfigurationError, match=rf"--captions: '{uri}'.*{message}"), loaded(content, uri):
        pass


def test_a_missing_file_is_named() -> None:
    with Objects(s3=MemoryObjects()) as objects, pytest.raises(ConfigurationError, match=r"captions.*s3://b/c\.json"):
        Captions.load("s3://b/c.json", objects)


def test_the_hash_depends_on_the_record_and_not_on_its_key_or_format() -> None:
    rows = [
        {"key": "1", "caption": "a", "tags": ["x"], "width": 1, "place": None},
        {"width": 1, "tags": ["x"], "caption": " a ", "key": "2"},
        {"key": "3", "caption": "a", "tags": ["x"], "width": 2},
        {"key": "4", "caption": "a", "tags": ["y"], "width": 1},
        {"key": "5", "caption": "b", "tags": ["x"], "width": 1},
        {"key": "6", "caption": None, "tags": ["x"], "width": 1},
    ]
    with loaded(lines(*rows)) as captions:
        found = captions.find_many([info(f"s3://b/set/{number}") for number in range(1, 7)])
    hashes = [record.caption_hash for record in found if record]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 5
    assert CaptionRecord.of("a", ("x",), {"width": 1}).caption_hash == "3b63004e05bdec8cb0f9aa32db231e0f"


def test_the_payload_of_a_record_has_its_caption_tags_and_meta() -> None:
    assert RECORD.payload() == {
        "caption": "a cat",
        "caption_hash": RECORD.caption_hash,
        "tags": ["pet", "black cat"],
        "meta": {"place": "图书馆"},
    }


def test_nan_from_pandas_is_not_metadata() -> None:
    with loaded(
        _parquet({"key": "1", "caption": "", "year": 2020.0}, {"key": "2", "caption": "b", "year": float("nan")}),
        "s3://b/c.parquet",
    ) as captions:
        first, second = captions.find_many([info("s3://b/1"), info("s3://b/2")])
    assert first is not None
    assert second is not None
    assert [each.payload()["meta"] for each in (first, second)] == [{"year": 2020.0}, {}]
