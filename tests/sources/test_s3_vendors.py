"""Endpoints, uploaders and credentials that differ from the documentation of S3."""

import gzip
import io
import json
import random
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit
from xml.sax.saxutils import escape

import pyarrow as pa
import pytest
from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session

from tests.sources import faulty
from tests.sources.faulty import CONTENT, ETAG, Answer, FaultyS3, error, page
from viewfinder.errors import ImageError, ObjectError, SourceError, ViewfinderError
from viewfinder.sources.access import CHECKED_BYTES, ObjectAccess
from viewfinder.sources.content_encoding import decode_bytes, decode_file
from viewfinder.sources.objects import Objects
from viewfinder.sources.s3_connection import S3Connection
from viewfinder.sources.uris import canonical_uri, s3_parts
from viewfinder.sources.versions import Version

pytestmark = pytest.mark.slow

MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"


def _access(server: FaultyS3, **values: object) -> ObjectAccess:
    return ObjectAccess(endpoint_url=server.url, backoff_s=0.001, **{"anonymous": True, **values})  # type: ignore[arg-type]


def _encoded(body: bytes, encoding: str) -> Answer:
    return lambda handler: handler.send(
        200, body, ETag=f'W/"{ETAG}"', Content_Encoding=encoding, Last_Modified=MODIFIED
    )


def test_a_proxy_of_the_environment_is_not_asked_for_an_endpoint_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Regression: HTTP_PROXY caught the calls.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with FaultyS3(then=_encoded(CONTENT, "")) as server, Objects(_access(server, retry_s=0.0)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT


# Content-Encoding


def _unix_compressed(data: bytes, max_width: int = 16, clear_after: int = 1 << 20) -> bytes:
    """Return the data as Unix `compress` writes it, with a clear code after so many codes."""
    out = bytearray(b"\x1f\x9d" + bytes([0x80 | max_width]))
    group: list[int] = []
    known, width, count, text = {bytes([each]): each for each in range(256)}, 9, 0, data[:1]

    def end_group(size: int) -> None:
        bits = sum(code << width * place for place, code in enumerate(group))
        out.extend(bits.to_bytes(size, "little"))
        group.clear()

    def emit(code: int) -> None:
        group.append(code)
        if len(group) == 8:
            end_group(width)

    def pad() -> None:
        end_group(width if group else 0)

    for byte in (data[at : at + 1] for at in range(1, len(data))):
        if text + byte in known:
            text += byte
            continue
        emit(known[text])
        if 257 + count < 1 << max_width:
            known[text + byte] = 257 + count
        text, count = byte, count + 1
        if 256 + count >= 1 << width < 1 << max(10, max_width):
            pad()
            width += 1
        if count == clear_after:
            emit(256)
            pad()
            known, width, count = {bytes([each]): each for each in range(256)}, 9, 0
    emit(known[text])
    end_group(-(-len(group) * width // 8))
    return bytes(out)


SKIPPED = b"\x5f\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"  # a frame of zstd without content
ENCODED = {
    "gzip": gzip.compress(CONTENT),
    "x-gzip": gzip.compress(CONTENT[:10]) + gzip.compress(CONTENT[10:]),
    "GZIP": gzip.compress(CONTENT),
    "gzip ": gzip.compress(CONTENT) + b"other bytes",
    "deflate": zlib.compress(CONTENT),
    "x-deflate": zlib.compress(CONTENT, wbits=-15),  # without the header that HTTP asks for
    "Deflate": gzip.compress(CONTENT),
    "br": pa.compress(CONTENT, "brotli", asbytes=True),
    "zstd": pa.compress(CONTENT, "zstd", asbytes=True),
    '"gzip"': gzip.compress(CONTENT),
    "gzip;q=1.0": gzip.compress(CONTENT),
    "Zstd": SKIPPED + pa.compress(CONTENT, "zstd", asbytes=True) + SKIPPED,
    "compress": _unix_compressed(CONTENT),
    "x-compress": _unix_compressed(CONTENT, 10, clear_after=300),
    '"deflate" ; q=1 , "x-gzip"': gzip.compress(zlib.compress(CONTENT)),
    "gzip, gzip": gzip.compress(gzip.compress(CONTENT)),
    "deflate, gzip": gzip.compress(zlib.compress(CONTENT)),
    "aws-chunked,gzip": gzip.compress(CONTENT),
    "identity": CONTENT,
    "aws-chunked": CONTENT,
    "utf-8": CONTENT,
    "image/jpeg": CONTENT,
    "": CONTENT,
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_the_content_encoding_is_undone(encoding: str) -> None:
    """An object stored with `Content-Encoding: gzip` was "not an image"."""
    body = ENCODED[encoding]
    heads: list[bytes] = []
    with FaultyS3(then=_encoded(body, encoding)) as server, Objects(_access(server)) as objects:
        content = objects.read("s3://b/k", 10_000, heads.append)
        with objects.open("s3://b/k") as file:
            assert file.read() == CONTENT
    assert content.data == CONTENT
    assert content.version == Version(ETAG, len(body), "2026-01-02T03:04:05Z"), "not that of the stored bytes"
    assert heads == [CONTENT[:CHECKED_BYTES]]


@pytest.mark.parametrize(
    ("status", "headers", "part"),
    [
        (206, {"Content_Range": "bytes 2-5/99"}, b"2345"),
        (206, {"Content_Range": "bytes 0-3/99"}, None),  # another part
        (200, {}, None),  # an endpoint that knows no ranges
        (206, {"Content_Range": "bytes 2-5/99", "ETag": '"changed"'}, None),
        (206, {"Content_Range": "bytes 2-5/99", "Content_Encoding": "gzip"}, None),
    ],
)
def test_a_part_is_read_alone_where_that_is_possible(status: int, headers: dict[str, str], part: bytes | None) -> None:
    sent = {"ETag": f'"{ETAG}"', "Last_Modified": MODIFIED} | headers

    def answer(handler: Any) -> None:
        assert handler.headers["range"] == "bytes=2-5"
        handler.send(status, b"2345", **sent)

    with FaultyS3(then=answer) as server, Objects(_access(server)) as objects:
        assert objects.read_part("s3://b/k", 2, 6, ETAG) == part


@pytest.mark.parametrize(("max_width", "clear_after"), [(16, 1 << 20), (12, 1 << 20), (12, 300), (13, 5000), (9, 400)])
def test_all_widths_of_the_codes_of_compress_are_decoded(max_width: int, clear_after: int) -> None:
    # `gzip -dc` decodes this data to the same content.
    content = random.Random(1).randbytes(100_000)
    assert decode_bytes(_unix_compressed(content, max_width, clear_after), ["compress"], 10**6, "s3://b/k") == content


@pytest.mark.parametrize("encoding", ["compress", "gzip", "deflate", "br", "zstd"])
def test_content_that_is_not_encoded_as_its_header_says_is_unchanged(encoding: str) -> None:
    with FaultyS3(then=_encoded(CONTENT, encoding)) as server, Objects(_access(server)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT
        with objects.open("s3://b/k") as file:
            assert file.read() == CONTENT


@pytest.mark.parametrize("encoding", ["compress", "gzip", "deflate", "br", "zstd"])
def test_the_size_limit_holds_after_decoding(encoding: str) -> None:
    with FaultyS3(then=_encoded(ENCODED[encoding], encoding)) as server, Objects(_access(server)) as objects:
        assert objects.read("s3://b/k", len(CONTENT)).data == CONTENT
        objects.open("s3://b/k", len(CONTENT)).close()
        for read in (objects.read, objects.open):
            with pytest.raises(ObjectError, match=f"more than 999 bytes after decoding {encoding}") as caught:
                read("s3://b/k", len(CONTENT) - 1)
            assert (caught.value.reason, caught.value.permanent) == ("too_many_bytes", True)


def test_a_file_is_limited_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(CONTENT)
    with FaultyS3(then=_encoded(CONTENT, "")) as server, Objects(_access(server)) as objects:
        for uri in ("s3://b/k", (tmp_path / "k").as_uri()):
            objects.open(uri, len(CONTENT)).close()
            with pytest.raises(ObjectError, match="has 1000 bytes, more than 999"):
                objects.open(uri, len(CONTENT) - 1)


BOMB = bytes(4_000_000)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("compress", _unix_compressed(BOMB)),
        ("br", pa.compress(BOMB, "brotli", asbytes=True) + b"other bytes"),
        ("zstd", pa.compress(BOMB, "zstd", asbytes=True) + b"other bytes"),
    ],
)
def test_a_file_is_decoded_in_little_memory(encoding: str, body: bytes) -> None:
    """Regression: all of it was in memory at once, so that one object could kill the service."""
    tracemalloc.start()
    try:
        with decode_file(io.BytesIO(body), [encoding], "s3://b/k", None, whole=False) as file:
            assert file.seek(0, io.SEEK_END) == len(BOMB)
        assert tracemalloc.get_traced_memory()[1] < len(BOMB) / 4
    finally:
        tracemalloc.stop()


NOISE = random.Random(2).randbytes(200_000).hex().encode()


@pytest.mark.parametrize(
    ("encoding", "body", "size"),
    [
        ("gzip", gzip.compress(NOISE)[:-8], len(NOISE)),  # without its trailer
        ("gzip", gzip.compress(NOISE)[:-8] + bytes(8), len(NOISE)),  # with a wrong CRC
        ("gzip", gzip.compress(NOISE) + b"\x1f\x8bother bytes", len(NOISE)),
        ("deflate", zlib.compress(NOISE)[:-4], len(NOISE)),
        ("br", pa.compress(NOISE, "brotli", asbytes=True) + b"other bytes", len(NOISE)),
        ("zstd", pa.compress(NOISE, "zstd", asbytes=True) + b"other bytes", len(NOISE)),
        ("gzip", gzip.compress(NOISE)[:100_000], 150_000),
        ("gzip", gzip.compress(NOISE)[:100_000] + b"\xff" * 100, 150_000),
        ("deflate", zlib.compress(NOISE)[:100_000], 150_000),
        ("br", pa.compress(NOISE, "brotli", asbytes=True)[:100_000], 1),
        ("zstd", pa.compress(NOISE, "zstd", asbytes=True)[:100_000], 128 * 1024),
    ],
)
def test_a_damaged_encoding_is_undone_up_to_the_damage(encoding: str, body: bytes, size: int) -> None:
    """Whole images were failures because of what is around them. Part of a table is refused."""
    with FaultyS3(then=_encoded(body, encoding)) as server, Objects(_access(server)) as objects:
        data = objects.read("s3://b/k", 10**6).data
        assert data[:size] == NOISE[:size]
        with objects.open("s3://b/k", 10**6, whole=False) as file:
            assert file.read() == data
        with pytest.raises(ObjectError, match=f"not complete {encoding} data") as caught:
            objects.open("s3://b/k")
        assert (caught.value.reason, caught.value.permanent) == ("corrupt", True)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("compress", b"\x1f\x9d\xff\xff\xff"),
        ("gzip", gzip.compress(CONTENT)[:10]),
        ("zstd", pa.compress(CONTENT, "zstd", asbytes=True)[:-5]),
    ],
)
def test_an_encoding_of_which_nothing_can_be_undone_is_corrupt(encoding: str, body: bytes) -> None:
    with FaultyS3(then=_encoded(body, encoding)) as server, Objects(_access(server)) as objects:
        for read in (objects.read, partial(objects.open, whole=False)):
            with pytest.raises(ObjectError, match=f"not complete {encoding} data") as caught:
                read("s3://b/k", 10_000)
            assert (caught.value.reason, caught.value.permanent) == ("corrupt", True)


@pytest.mark.parametrize(
    ("modified", "time"),
    [
        (MODIFIED, "2026-01-02T03:04:05Z"),
        ("Fri, 02 Jan 2026 11:04:05 +0800", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05Z"),  # as in listings
        ("", ""),
    ],
)
def test_times_have_one_form_and_a_gateway_need_not_know_a_size(modified: str, time: str) -> None:
    answer: Answer = lambda handler: handler.send(  # noqa: E731
        200, CONTENT, length=-1, ETag=f'"{ETAG}"', Last_Modified=modified
    )
    with FaultyS3(then=answer) as server, Objects(_access(server)) as objects:
        assert objects.read("s3://b/k", 10_000).version == Version(ETAG, len(CONTENT), time)
        assert objects.stat("s3://b/k").version == Version(ETAG, -1, time)


# The first bytes


def _refuse(head: bytes) -> None:
    raise ImageError("not_an_image", f"begins with {head[:3]!r}")


@pytest.mark.parametrize("max_bytes", [10, 10_000_000])
def test_content_is_refused_after_its_first_bytes(max_bytes: int) -> None:
    with (
        FaultyS3(then=lambda handler: handler.send(200, CONTENT * 10, length=10**9, ETag=ETAG)) as server,
        Objects(_access(server, read_timeout_s=5)) as objects,
        pytest.raises(ImageError, match="begins with b'012'") as caught,
    ):
        objects.read("s3://b/k", max_bytes, _refuse)
    assert caught.value.reason == "not_an_image"
    assert len(server.paths) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_encoded_content_is_refused_after_its_first_bytes(encoding: str) -> None:
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": lambda data: pa.compress(data, "brotli", asbytes=True),
        "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    }
    content = b"012" + random.Random(1).randbytes(400_000)
    for coding in encoding.split(", "):
        content = compress[coding](content)
    answer = lambda handler: handler.send(200, content, length=10**9, ETag=ETAG, Content_Encoding=encoding)  # noqa: E731
    with (
        FaultyS3(then=answer) as server,
        Objects(_access(server, read_timeout_s=5)) as objects,
        pytest.raises(ImageError, match="begins with b'012'"),
    ):
        objects.read("s3://b/k", 10_000_000, _refuse)
    assert len(server.paths) == 1


def test_small_content_is_refused_before_all_of_it_is_decoded() -> None:
    bomb = gzip.compress(b"012" + bytes(10**6))
    with (
        FaultyS3(then=_encoded(bomb, "gzip")) as server,
        Objects(_access(server)) as objects,
        pytest.raises(ImageError, match="begins with b'012'"),
    ):
        objects.read("s3://b/k", 10_000, _refuse)


def test_first_bytes_are_checked_for_local_files_and_objects_in_memory_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    with Objects() as objects, pytest.raises(ImageError, match="b'012'"):
        objects.read(canonical_uri(str(tmp_path / "x")), 10, _refuse)


# Listings that would not end or not be complete

NOT_FOUND = error(404, "NoSuchKey")


@pytest.mark.parametrize("ordered", [True, False], ids=["sequential", "parallel"])
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([page("1", token="t"), page("2", token="t")], "repeated the continuation token 't'"),
        ([page("1", token="t"), page("2", token="u"), page("3", token="t")], "repeated the continuation token 't'"),
        ([page("1", token="t"), page("1", token="u")], "repeated a page"),
        ([page("1", truncated=True)], "no continuation token"),
        ([page("1", token="t"), page("2", truncated=True)], "no continuation token"),
    ],
    ids=["same token", "tokens in a circle", "same page", "no token", "no second token"],
)
def test_an_endless_or_incomplete_listing_is_an_error(answers: list[Answer], message: str, ordered: bool) -> None:
    """A server that repeats its token was listed for ever."""
    # The parallel listing asks twice for the first page: once to see if it is the only one.
    plan = answers if ordered else [answers[0], *answers]
    with (
        FaultyS3(plan, then=answers[-1]) as server,
        Objects(_access(server, threads=4)) as objects,
        pytest.raises(ViewfinderError, match=rf"http://127.*'s3://b/'.*{message}"),
    ):
        list(objects.list("s3://b", ordered=ordered))
    assert len(server.paths) <= len(plan) + 1


def test_a_page_without_is_truncated_goes_on_if_it_has_a_token() -> None:
    with (
        FaultyS3([page("1", token="t", truncated=""), page("2", truncated="")]) as server,
        Objects(_access(server)) as objects,
    ):
        assert [info.key for info in objects.list("s3://b")] == ["1", "2"]


def test_folder_markers_before_the_first_image_are_not_an_empty_bucket() -> None:
    """Twelve folder markers before the first image made a full bucket "empty"."""
    first, second = page(*(f"{number:04}/" for number in range(1000)), token="t"), page("a/", "b/1.jpg")
    with FaultyS3([first, second]) as server, Objects(_access(server)) as objects:
        objects.check("s3://b")
    only = page(*(f"{number:02}/" for number in range(12)))
    with FaultyS3(then=only) as server, Objects(_access(server)) as objects, pytest.raises(SourceError, match="empty"):
        objects.check("s3://b")


# Keys


def _keys(server: FaultyS3) -> list[str]:
    with Objects(_access(server)) as objects:
        return [info.key for info in objects.list("s3://b")]


class _Bucket:
    """A bucket whose listings encode names with `encode` and never say so, on pages of two entries."""

    def __init__(self, keys: list[str], encode: Callable[[str], str], *, refused: str = "no prefix") -> None:
        self.keys = sorted(keys)
        self.looked_for: list[str] = []
        self._encode = encode
        self._refused = refused

    def __call__(self, handler: faulty.Handler) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        if not asked:  # a HEAD or GET of an object
            return error(403, "AccessDenied")(handler)
        if "max-keys" in asked:
            self.looked_for.append(asked["prefix"])
        if asked.get("prefix") == self._refused:
            return error(403, "AccessDenied")(handler)
        return self._list(handler, asked)

    def _list(self, handler: faulty.Handler, asked: dict[str, str]) -> None:
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token", asked.get("start-after", ""))
        entries = [self._entry(key, prefix, "delimiter" in asked) for key in self.keys if key.startswith(prefix)]
        entries = [entry for entry in dict.fromkeys(entries) if entry > after]
        size = int(asked.get("max-keys", 2))
        shown = "".join(self._element(entry) for entry in entries[:size])
        if len(entries) > size:
            token = escape(entries[size - 1])
            shown += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        body = f"<ListBucketResult><Name>b</Name>{shown}</ListBucketResult>".encode()
        handler.send(200, body, Content_Type="application/xml")

    def _entry(self, key: str, prefix: str, shallow: bool) -> str:
        name, slash, _ = key.removeprefix(prefix).partition("/")
        return prefix + name + slash if shallow else key

    def _element(self, entry: str) -> str:
        name = escape(self._encode(entry))
        if entry in self.keys:
            return f"<Contents><Key>{name}</Key><Size>1</Size></Contents>"
        return f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"


ODD_KEYS = ["!", "100%.jpg", "a b.jpg", "a+c.jpg", "date=1/a b.jpg", "date=1/x@y, [z].jpg", "q&a; $5/1 2.jpg"]
ODD_KEYS += ["x y/1.jpg", "x y/2.jpg", "x y/3.jpg", "z%20z.jpg", "é/ü f.jpg"]
ENCODERS: dict[str, Callable[[str], str]] = {
    "none": str,
    "Python's": quote,
    "Go's for paths": lambda key: quote(key, safe="/=:,@&$;+"),
    "JavaScript's": lambda key: quote(key, safe="/!*'()"),
    "of forms": quote_plus,
    "of forms, slashes kept": lambda key: quote_plus(key, safe="/"),
    "only of ASCII": lambda key: "".join(quote(each) if each.isascii() else each for each in key),
}


@pytest.mark.parametrize("ordered", [True, False], ids=["sequential", "parallel"])
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_all_pages_of_a_listing_are_decoded_in_the_same_way(encode: Callable[[str], str], ordered: bool) -> None:
    """Each page was decoded or not by its characters, so that some keys did not exist and their points were pruned."""
    bucket = _Bucket(ODD_KEYS, encode)
    with FaultyS3(then=bucket) as server, Objects(_access(server, threads=4)) as objects:
        assert sorted(info.key for info in objects.list("s3://b", ordered=ordered)) == sorted(ODD_KEYS)
        assert [info.key for info in objects.list("s3://b/date=1")] == ["date=1/a b.jpg", "date=1/x@y, [z].jpg"]
    assert len(bucket.looked_for) <= 5, "asked for each page"


BOTH = {
    "on one page": ["a b.jpg", "a%20b.jpg", "c d.jpg"],
    "a folder twice": [f"a{space}{number}.jpg" for space in (" ", "%20") for number in range(4)],
    "three times": [f"a{space}{number}.jpg" for space in (" ", "%20", "%2520", "+", "%2B") for number in range(3)],
    "folders": [f"a{space}/{number}.jpg" for space in (" ", "%20", "+", "%2B") for number in range(3)],
    "a percent sign at the end": ["100%", "100%25"],
    "a percent sign alone": ["100%"],
    "a plus sign": ["a b+.jpg", "a+b+.jpg"],
    "other letters": ["图.jpg", "%E5%9B%BE.jpg"],
    "as it is": ["100%.jpg", "a%20b.jpg"],
}


@pytest.mark.parametrize("ordered", [True, False], ids=["sequential", "parallel"])
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("keys", BOTH.values(), ids=BOTH)
def test_keys_that_exist_in_both_spellings_are_decoded(
    keys: list[str], encode: Callable[[str], str], ordered: bool
) -> None:
    """They were decoded by a guess. The next page proved it wrong, so that the bucket could never be listed."""
    bucket = _Bucket(keys, encode)
    with FaultyS3(then=bucket) as server, Objects(_access(server, threads=4)) as objects:
        assert sorted(info.key for info in objects.list("s3://b", ordered=ordered)) == sorted(keys)
    assert len(bucket.looked_for) <= 5


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_the_prefix_of_a_listing_shows_how_its_keys_are_encoded(encode: Callable[[str], str]) -> None:
    """Credentials may list that prefix alone."""
    keys = ["a %20+/1.jpg", "a %20+/2.jpg", "a %20+/3.jpg"]
    bucket = _Bucket(keys, encode)
    with FaultyS3(then=bucket) as server, Objects(_access(server)) as objects:
        assert [info.key for info in objects.list("s3://b/a %20+")] == keys
    assert bucket.looked_for == []


@pytest.mark.parametrize(
    ("encode", "deleted"), [(str, "0%200.jpg"), (str, "1%201.jpg"), (quote, "0%200.jpg"), (quote, "1%25201.jpg")]
)
def test_keys_that_are_deleted_meanwhile_show_nothing_wrong(encode: Callable[[str], str], deleted: str) -> None:
    keys = ["1 1.jpg", "2 1.jpg", "2+1.jpg", "3%201.jpg"]
    with FaultyS3([page(deleted, token=" ")], then=_Bucket(keys, encode)) as server:
        assert _keys(server)[1:] == keys


def test_keys_of_which_no_listing_shows_how_they_are_encoded_are_an_error() -> None:
    """`100%25` may be itself, beside `100%2525`, or `100%`, beside `100%25`."""
    bucket = _Bucket(["0", "100%", "100%25"], quote)
    with FaultyS3(then=bucket) as server, pytest.raises(ViewfinderError, match=r"'100%25' is encoded\. Rename"):
        _keys(server)


def test_a_refused_listing_that_would_show_how_keys_are_encoded_is_an_error() -> None:
    bucket = _Bucket(["a b.jpg"], quote, refused="a b.jpg")
    with FaultyS3(then=bucket) as server, pytest.raises(SourceError, match=r"'a b\.jpg' were listed to find out"):
        _keys(server)


def test_keys_that_the_answer_declares_encoded_are_decoded_once() -> None:
    declared = "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    declared += "<Contents><Key>a%2520b.jpg</Key><Size>1</Size></Contents></ListBucketResult>"
    with FaultyS3([lambda handler: handler.send(200, declared.encode())], then=NOT_FOUND) as server:
        assert _keys(server) == ["a%20b.jpg"]
        assert len(server.paths) == 1


# Archived objects


@pytest.mark.parametrize(
    ("more", "archived"),
    [
        ("", False),
        ("<StorageClass>STANDARD_IA</StorageClass>", False),
        ("<StorageClass>GLACIER_IR</StorageClass>", False),
        ("<StorageClass>GLACIER</StorageClass>", True),
        ("<StorageClass>DEEP_ARCHIVE</StorageClass>", True),
        ("<StorageClass>ColdArchive</StorageClass>", True),
        ("<StorageClass>DeepColdArchive</StorageClass>", True),
        ("<StorageClass>ARCHIVE</StorageClass>", False),  # Google's can be read at once, Tencent's cannot
        ("<StorageClass>Archive</StorageClass>", False),  # Alibaba's: the bucket decides
        ("<StorageClass>COLD</StorageClass>", False),  # Yandex's can be read at once, Huawei's cannot
        ("<StorageClass>ICE</StorageClass>", False),
        (
            "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
            "<RestoreExpiryDate>2026-12-21T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>",
            False,
        ),
        (
            "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress>"
            "</RestoreStatus>",
            True,
        ),
    ],
)
def test_the_listing_shows_archived_objects(more: str, archived: bool) -> None:
    with FaultyS3([page("1.jpg", more=more)]) as server, Objects(_access(server)) as objects:
        (info,) = objects.list("s3://b")
    assert info.archived is archived
    assert server.headers[0]["x-amz-optional-object-attributes"] == "RestoreStatus"


@pytest.mark.parametrize(
    ("headers", "archived"),
    [
        ({}, False),
        ({"x_amz_storage_class": "DEEP_ARCHIVE"}, True),
        ({"x_amz_storage_class": "GLACIER", "x_amz_restore": 'ongoing-request="true"'}, True),
        ({"x_amz_storage_class": "GLACIER", "x_amz_restore": 'ongoing-request="false", expiry-date="x"'}, False),
        ({"x_amz_storage_class": "ColdArchive", "x_oss_restore": 'ongoing-request="true"'}, True),
        ({"x_amz_storage_class": "ColdArchive", "x_oss_restore": 'ongoing-request="false", expiry-date="x"'}, False),
        ({"x_amz_storage_class": "INTELLIGENT_TIERING"}, False),
        ({"x_amz_storage_class": "INTELLIGENT_TIERING", "x_amz_archive_status": "DEEP_ARCHIVE_ACCESS"}, True),
    ],
)
def test_a_stat_shows_archived_objects(headers: dict[str, str], archived: bool) -> None:
    with (
        FaultyS3(then=lambda handler: handler.send(200, CONTENT, **headers)) as server,
        Objects(_access(server)) as objects,
    ):
        assert objects.stat("s3://b/k").archived is archived


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("InvalidObjectState", "The operation is not valid for the object's storage class", "archived"),
        ("AccessDenied", "InvalidObjectState", "archived"),
        ("AccessDenied", "Access Denied.", "access_denied"),
    ],
)
def test_an_answer_tells_that_an_object_is_archived(code: str, text: str, reason: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
    with (
        FaultyS3(then=lambda handler: handler.send(403, body, Content_Type="application/xml")) as server,
        Objects(_access(server)) as objects,
        pytest.raises(ObjectError) as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert caught.value.reason == reason


def test_an_endpoint_whose_listings_do_not_show_it_is_asked_for_restored_objects() -> None:
    """A restored object stayed archived for ever."""

    def answer(handler: faulty.Handler) -> None:
        restored = {"x_amz_restore": 'ongoing-request="false", expiry-date="x"'} if handler.path == "/b/2" else {}
        (NOT_FOUND if handler.path == "/b/3" else lambda handler: handler.send(200, b"", **archived, **restored))(
            handler
        )

    archived, uris = {"x_amz_storage_class": "GLACIER"}, ["s3://b/1", "s3://b/2", "s3://b/3"]
    with FaultyS3(then=answer) as server, Objects(_access(server)) as objects:
        assert objects.restored(uris) == {"s3://b/2"}
        assert objects.restored([]) == set()
        assert sorted(server.paths) == ["/b/1", "/b/2", "/b/3"]


@pytest.mark.parametrize(
    "endpoint", [None, "https://s3.eu-west-3.amazonaws.com", "https://s3.cn-north-1.amazonaws.com.cn"]
)
def test_aws_is_not_asked_for_restored_objects(endpoint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(URLLib3Session, "send", lambda *_: pytest.fail("a request"))
    with Objects(ObjectAccess(endpoint, anonymous=True)) as objects:
        assert objects.restored(["s3://b/1"]) == set()


@pytest.mark.parametrize("fault", [error(501, "NotImplemented"), error(400, "InvalidArgument")])
def test_an_endpoint_that_does_not_know_the_state_of_restored_objects_is_listed_without(fault: Answer) -> None:
    with FaultyS3([fault, page("1", token="t"), page("2")]) as server, Objects(_access(server)) as objects:
        assert [info.key for info in objects.list("s3://b")] == ["1", "2"]
    assert ["x-amz-optional-object-attributes" in headers for headers in server.headers] == [True, False, False]


# Addressing and payment

FORBIDDEN = error(403, "SecondLevelDomainForbidden")


def _in_host_name(answer: Answer) -> Answer:
    """Answer if the bucket is in the host name, as Alibaba's endpoint does. Requests come through a proxy."""
    return lambda handler: (answer if handler.headers["Host"] == "photos.oss.example" else FORBIDDEN)(handler)


@pytest.fixture
def oss(monkeypatch: pytest.MonkeyPatch) -> Callable[[FaultyS3], None]:
    def use(server: FaultyS3) -> None:
        monkeypatch.setenv("HTTP_PROXY", server.url)

    return use


@pytest.mark.parametrize("addressing", ["auto", "virtual"])
def test_virtual_hosts_are_used_where_they_are_set_or_demanded(
    addressing: str, oss: Callable[[FaultyS3], None]
) -> None:
    with FaultyS3(then=_in_host_name(page("1.jpg"))) as server:
        oss(server)
        access = ObjectAccess("http://oss.example", anonymous=True, backoff_s=0.001, addressing=addressing)  # type: ignore[arg-type]
        with Objects(access) as objects:
            objects.check("s3://photos")
            assert [info.key for info in objects.list("s3://photos")] == ["1.jpg"]
        refused = sum(headers["Host"] == "oss.example" for headers in server.headers)
    assert refused == (1 if addressing == "auto" else 0), "the addressing is not remembered"


def test_a_head_without_a_body_finds_out_about_virtual_hosts_too(oss: Callable[[FaultyS3], None]) -> None:
    with FaultyS3(then=_in_host_name(faulty.content)) as server:
        oss(server)
        with Objects(ObjectAccess("http://oss.example", anonymous=True, backoff_s=0.001)) as objects:
            assert objects.stat("s3://photos/k").etag == ETAG


def test_path_addressing_that_is_set_is_kept_and_the_setting_is_named(oss: Callable[[FaultyS3], None]) -> None:
    with FaultyS3(then=_in_host_name(page("1.jpg"))) as server:
        oss(server)
        access = ObjectAccess("http://oss.example", anonymous=True, backoff_s=0.001, addressing="path")
        with Objects(access) as objects, pytest.raises(SourceError, match="VIEWFINDER_S3_ADDRESSING=virtual"):
            objects.check("s3://photos")


@pytest.mark.parametrize("pays", [True, False])
def test_requester_pays_is_sent_with_every_request(pays: bool) -> None:
    with FaultyS3([page("1")] * 2) as server, Objects(_access(server, requester_pays=pays)) as objects:
        objects.check("s3://b")
        list(objects.list("s3://b"))
        objects.stat("s3://b/k")
        objects.read("s3://b/k", 10_000)
        objects.open("s3://b/k").close()
    assert len(server.headers) == 5
    assert {headers.get("x-amz-request-payer") for headers in server.headers} == {"requester" if pays else None}


# Signed addresses


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")


def _address(objects: Objects, uri: str = "s3://photos/k") -> str | None:
    return objects.presigned_url(uri, 300, "image/jpeg", "inline")


@pytest.mark.usefixtures("keys")
def test_an_address_holds_the_consent_to_pay() -> None:
    """A header that is signed must be sent, which a browser does not do."""
    with FaultyS3() as server, Objects(_access(server, anonymous=False, requester_pays=True)) as objects:
        query = parse_qs(urlsplit(_address(objects) or "").query)
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert query["x-amz-request-payer"] == ["requester"]


@pytest.mark.usefixtures("keys")
def test_an_address_has_the_bucket_in_the_host_name_where_this_is_demanded(oss: Callable[[FaultyS3], None]) -> None:
    with FaultyS3(then=_in_host_name(faulty.content)) as server:
        oss(server)
        with Objects(ObjectAccess("http://oss.example", backoff_s=0.001)) as objects:
            assert urlsplit(_address(objects) or "").netloc == "photos.oss.example"


@pytest.mark.usefixtures("keys")
def test_an_address_is_signed_for_the_region_of_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Any, **_: object) -> AWSResponse:
        if ".eu-west-3." in request.url:
            return AWSResponse(request.url, 200, {"content-length": "5"}, _NoBody())
        return AWSResponse(request.url, 400, {"x-amz-bucket-region": "eu-west-3"}, _NoBody())

    def connect(connection: S3Connection, **options: bool) -> Any:
        client = connected(connection, **options)
        client.meta.events.register("before-send.s3", answer)
        return client

    connected = S3Connection.connect
    monkeypatch.setattr(S3Connection, "connect", connect)
    with Objects(ObjectAccess()) as objects:
        parts = urlsplit(_address(objects) or "")
    assert parts.netloc == "photos.s3.eu-west-3.amazonaws.com"
    assert "/eu-west-3/s3/" in parse_qs(parts.query)["X-Amz-Credential"][0]


class _NoBody(io.BytesIO):
    def stream(self, **_: object) -> Iterator[bytes]:
        return iter(())


@pytest.mark.usefixtures("keys")
def test_an_object_that_a_client_cannot_read_as_it_is_has_no_address() -> None:
    archived: Answer = lambda handler: handler.send(200, CONTENT, x_amz_storage_class="GLACIER")  # noqa: E731
    faults = [archived, _encoded(CONTENT, "gzip"), error(404, "NoSuchKey")]
    with FaultyS3(faults) as server, Objects(_access(server, anonymous=False)) as objects:
        with pytest.raises(ObjectError, match="is archived") as caught:
            _address(objects)
        assert caught.value.reason == "archived"
        assert _address(objects) is None
        with pytest.raises(ObjectError) as caught:
            _address(objects)
        assert caught.value.reason == "not_found"


ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint/photos"


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        (f"s3://{ARN}", ARN, ""),
        (f"s3://{ARN}/", ARN, ""),
        (f"s3://{ARN}/2024/a b.jpg", ARN, "2024/a b.jpg"),
        (f"s3://{ARN.replace('/', ':')}/x", ARN, "x"),
        ("s3://arn:aws:s3::123456789012:accesspoint/m.mrap/x", "arn:aws:s3::123456789012:accesspoint/m.mrap", "x"),
    ],
)
def test_the_arn_of_an_access_point_is_a_bucket(text: str, bucket: str, key: str) -> None:
    uri = canonical_uri(text)
    assert s3_parts(uri) == (bucket, key)
    assert canonical_uri(uri) == uri


@pytest.mark.parametrize("text", ["s3://arn:aws:s3:::bucket/x", "s3://arn:aws:s3:eu-west-1:1:accesspoint/"])
def test_another_arn_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="not the ARN of an access point"):
        canonical_uri(text)


# Credentials


def test_credentials_that_come_late_are_used(tmp_path: Path) -> None:
    """One slow answer of the credentials endpoint left a worker without credentials for life."""
    text = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
    timer = threading.Timer(0.2, lambda: (tmp_path / "credentials").write_text(text))
    with FaultyS3() as server, Objects(_access(server, anonymous=False)) as objects:
        timer.start()
        assert objects.read("s3://b/k", 10_000).data == CONTENT
    timer.join()


def _credential_process(directory: Path, failures: int) -> None:
    """Configure a program that fails so many times before it prints credentials."""
    counter, keys = directory / "calls", {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}
    program = directory / "program"
    enough = f"[ $(wc -l < {counter}) -gt {failures} ]"
    program.write_text(f"#!/bin/sh\necho x >> {counter}\n{enough} || exit 1\necho '{json.dumps(keys)}'\n")
    program.chmod(0o755)
    (directory / "config").write_text(f"[default]\ncredential_process = {program}\n")


def test_credentials_that_fail_a_few_times_are_fetched_again(tmp_path: Path) -> None:
    _credential_process(tmp_path, failures=3)
    with FaultyS3() as server, Objects(_access(server, anonymous=False)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT


def test_a_check_fetches_credentials_again(tmp_path: Path) -> None:
    _credential_process(tmp_path, failures=1)
    with FaultyS3(then=page("1")) as server, Objects(_access(server, anonymous=False)) as objects:
        objects.check("s3://b")


def test_a_key_that_is_refused_is_tried_until_it_is_rotated(tmp_path: Path) -> None:
    """The old key may end before the file has the new one."""
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = old\naws_secret_access_key = b\n")

    def rotate(handler: faulty.Handler) -> None:
        text = "[default]\naws_access_key_id = new\naws_secret_access_key = b\n"
        (tmp_path / "credentials").write_text(text)
        error(403, "InvalidAccessKeyId")(handler)

    expired = error(400, "ExpiredToken")
    with FaultyS3([expired, expired, rotate]) as server, Objects(_access(server, anonymous=False)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT
    assert "Credential=new/" in server.headers[-1]["Authorization"]


def test_missing_credentials_are_denied_access_in_the_end() -> None:
    with (
        FaultyS3() as server,
        Objects(_access(server, anonymous=False, retry_s=0.05)) as objects,
        pytest.raises(ObjectError, match=r"after .* attempts: NoCredentialsError") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert (caught.value.reason, caught.value.permanent) == ("access_denied", False)
