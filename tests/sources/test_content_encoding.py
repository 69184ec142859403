"""Objects that are stored encoded (`Content-Encoding`), damaged or refused after their first bytes."""

import gzip
import io
import random
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.sources.faulty import CONTENT, ETAG, MODIFIED, Answer, FaultyS3, encoded
from viewfinder.errors import ImageError, ObjectError
from viewfinder.sources.access import CHECKED_BYTES
from viewfinder.sources.content_encoding import decode_bytes, decode_file
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri
from viewfinder.sources.versions import Version

pytestmark = pytest.mark.slow


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
    with FaultyS3(then=encoded(body, encoding)) as server, Objects(server.access()) as objects:
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

    with FaultyS3(then=answer) as server, Objects(server.access()) as objects:
        assert objects.read_part("s3://b/k", 2, 6, ETAG) == part


@pytest.mark.parametrize(("max_width", "clear_after"), [(16, 1 << 20), (12, 1 << 20), (12, 300), (13, 5000), (9, 400)])
def test_all_widths_of_the_codes_of_compress_are_decoded(max_width: int, clear_after: int) -> None:
    # `gzip -dc` decodes this data to the same content.
    content = random.Random(1).randbytes(100_000)
    assert decode_bytes(_unix_compressed(content, max_width, clear_after), ["compress"], 10**6, "s3://b/k") == content


@pytest.mark.parametrize("encoding", ["compress", "gzip", "deflate", "br", "zstd"])
def test_content_that_is_not_encoded_as_its_header_says_is_unchanged(encoding: str) -> None:
    with FaultyS3(then=encoded(CONTENT, encoding)) as server, Objects(server.access()) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT
        with objects.open("s3://b/k") as file:
            assert file.read() == CONTENT


@pytest.mark.parametrize("encoding", ["compress", "gzip", "deflate", "br", "zstd"])
def test_the_size_limit_holds_after_decoding(encoding: str) -> None:
    with FaultyS3(then=encoded(ENCODED[encoding], encoding)) as server, Objects(server.access()) as objects:
        assert objects.read("s3://b/k", len(CONTENT)).data == CONTENT
        objects.open("s3://b/k", len(CONTENT)).close()
        for read in (objects.read, objects.open):
            with pytest.raises(ObjectError, match=f"more than 999 bytes after decoding {encoding}") as caught:
                read("s3://b/k", len(CONTENT) - 1)
            assert (caught.value.reason, caught.value.permanent) == ("too_many_bytes", True)


def test_a_file_is_limited_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(CONTENT)
    with FaultyS3(then=encoded(CONTENT, "")) as server, Objects(server.access()) as objects:
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
    with FaultyS3(then=encoded(body, encoding)) as server, Objects(server.access()) as objects:
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
    with FaultyS3(then=encoded(body, encoding)) as server, Objects(server.access()) as objects:
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
    with FaultyS3(then=answer) as server, Objects(server.access()) as objects:
        assert objects.read("s3://b/k", 10_000).version == Version(ETAG, len(CONTENT), time)
        assert objects.stat("s3://b/k").version == Version(ETAG, -1, time)


# The first bytes


def _refuse(head: bytes) -> None:
    raise ImageError("not_an_image", f"begins with {head[:3]!r}")


@pytest.mark.parametrize("max_bytes", [10, 10_000_000])
def test_content_is_refused_after_its_first_bytes(max_bytes: int) -> None:
    with (
        FaultyS3(then=lambda handler: handler.send(200, CONTENT * 10, length=10**9, ETag=ETAG)) as server,
        Objects(server.access(read_timeout_s=5)) as objects,
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
        Objects(server.access(read_timeout_s=5)) as objects,
        pytest.raises(ImageError, match="begins with b'012'"),
    ):
        objects.read("s3://b/k", 10_000_000, _refuse)
    assert len(server.paths) == 1


def test_small_content_is_refused_before_all_of_it_is_decoded() -> None:
    bomb = gzip.compress(b"012" + bytes(10**6))
    with (
        FaultyS3(then=encoded(bomb, "gzip")) as server,
        Objects(server.access()) as objects,
        pytest.raises(ImageError, match="begins with b'012'"),
    ):
        objects.read("s3://b/k", 10_000, _refuse)


def test_first_bytes_are_checked_for_local_files_and_objects_in_memory_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    with Objects() as objects, pytest.raises(ImageError, match="b'012'"):
        objects.read(canonical_uri(str(tmp_path / "x")), 10, _refuse)
