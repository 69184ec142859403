"""The stage that reads objects: short bodies, and objects that may not be read."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

from tests.fixtures.indexing import LIMITS
from tests.indexing.sample_images import encoded_image
from tests.sources.faulty import Answer, FaultyS3
from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import Preprocess
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.rows import Row, table_of
from viewfinder.sources.access import HeadCheck, ObjectAccess, ObjectContent
from viewfinder.sources.objects import Objects
from viewfinder.testing.objects import MemoryObjects

pytestmark = pytest.mark.slow


class Guarded(MemoryObjects):
    """S3 that allows listing, and reading only the objects that are not in `denied`, up to `bytes_sent`."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        super().__init__(contents)
        self.denied: set[str] = set()
        self.bytes_sent: int | None = None

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        if uri in self.denied:
            self.uris_read.append(uri)
            raise ObjectError("access_denied", f"Could not read {uri!r}: AccessDenied.")
        if self.bytes_sent is None:
            return super().read(uri, max_bytes, check_head)
        data = self.contents[uri][: self.bytes_sent]
        if check_head is not None:
            check_head(data)
        return ObjectContent(data, self.stat(uri).version._replace(size=len(data)))


def _decoder() -> Decoder:
    return Decoder(Preprocess(32), LIMITS, timeout_s=4, memory_bytes=2**30)


@pytest.fixture
def guarded() -> Iterator[tuple[Guarded, FetchAndDecode]]:
    """Fifty images, and the stage that reads them."""
    objects = Guarded({f"s3://b/{number:02}": encoded_image(number) for number in range(50)})
    with _decoder() as decoder:
        yield (
            objects,
            FetchAndDecode(
                ObjectAccess(),
                Preprocess(32),
                LIMITS,
                threads=2,
                timeout_s=4,
                memory_bytes=2**30,
                objects=lambda: Objects(s3=objects),
                decoder=lambda: nullcontext(decoder),
            ),
        )


def test_a_body_that_is_cut_off_is_not_taken_for_a_text(guarded: tuple[Guarded, FetchAndDecode]) -> None:
    """The first four bytes of a GIF are `GIF8`; its point was deleted."""
    bucket, stage = guarded
    bucket.contents["s3://b/gif"] = encoded_image(1, kind="GIF")
    bucket.bytes_sent = 4
    etag, size, _ = bucket.stat("s3://b/gif").version
    row: Row = {"action": "index", "count": 1, "uri": "s3://b/gif", "size": size, "etag": etag}
    (done,) = stage(table_of([row])).to_pylist()
    assert (done["action"], done["reason"], done["permanent"]) == ("failed", "unavailable", False)


def _fetch(guarded: tuple[Guarded, FetchAndDecode]) -> list[dict[str, Any]]:
    objects, stage = guarded
    rows = [{"action": "index", "count": 1, "uri": uri, "size": 10, "etag": ""} for uri in objects.contents]
    done: list[dict[str, Any]] = stage(table_of(rows)).to_pylist()
    return done


def test_a_large_object_that_is_no_image_is_skipped(guarded: tuple[Guarded, FetchAndDecode]) -> None:
    """It exceeded the limit in every run, which ended with status 1."""
    bucket, _ = guarded
    large = LIMITS.max_bytes + 1
    bucket.contents = {
        "s3://b/zeros": bytes(large),
        "s3://b/a.npy": b"\x93NUMPY\1\0".ljust(large, b"\0"),
        "s3://b/a.bmp": encoded_image(1, kind="BMP").ljust(large, b"\0"),
    }
    outcomes = {row["uri"]: (row["action"], row["reason"]) for row in _fetch(guarded)}
    assert outcomes == {
        "s3://b/zeros": ("skipped", "not_an_image"),
        "s3://b/a.npy": ("skipped", "not_an_image"),
        "s3://b/a.bmp": ("failed", "too_many_bytes"),
    }


GATEWAY = [b"<!DOCTYPE html><html>Please sign in</html>" + bytes(3000), b'<?xml version="1.0"?><Error/>', b"", b"busy"]


def _fetched(server: FaultyS3, decoder: Decoder, row: Row) -> dict[str, Any]:
    access = server.access(retry_s=0.0)
    with Objects(access) as objects:
        stage = FetchAndDecode(
            access,
            Preprocess(32),
            LIMITS,
            threads=2,
            timeout_s=4,
            memory_bytes=2**30,
            objects=lambda: objects,
            decoder=lambda: nullcontext(decoder),
        )
        (done,) = stage(table_of([row])).to_pylist()
    return dict(done)


FRAMES = ["length", "chunks", "no length"]


def _send(frame: str, body: bytes) -> Answer:
    """Answer with this body: with its length, in chunks, or until the connection is closed."""
    headers = {"ETag": '"same"', **({"Transfer_Encoding": "chunked"} if frame == "chunks" else {})}
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if frame == "chunks" else body
    return lambda handler: handler.send(200, sent, length=None if frame == "length" else -1, **headers)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("more", [-300, 10], ids=["decoded to more bytes", "decoded to fewer bytes"])
def test_an_object_that_a_gateway_decodes_is_the_listed_one(frame: str, more: int) -> None:
    """It was read again in every run, or failed if gzip had made it larger."""
    image = encoded_image(1)
    row: Row = {"action": "index", "count": 1, "uri": "s3://b/1.jpg", "size": len(image) + more, "etag": "same"}
    with FaultyS3(then=_send(frame, image)) as server, _decoder() as decoder:
        done = _fetched(server, decoder, row)
    assert (done["action"], done["etag"], done["size"]) == ("index", "same", len(image) + more)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("missing", [30, 600], ids=["the end", "most"])
def test_a_part_of_the_listed_object_is_not_taken_for_the_whole(frame: str, missing: int) -> None:
    image = encoded_image(1)
    row: Row = {"action": "index", "count": 1, "uri": "s3://b/1.jpg", "size": len(image), "etag": "same"}
    with FaultyS3(then=_send(frame, image[:-missing])) as server, _decoder() as decoder:
        done = _fetched(server, decoder, row)
    assert (done["action"], done["reason"], done["permanent"]) == ("failed", "unavailable", False)
    assert (done["stage"], done["etag"], done["size"]) == ("fetch", "same", len(image))
    assert f"got {len(image) - missing:,} of {len(image):,} bytes in each of 3 attempts" in done["message"]
    assert len(server.paths) == 3


@pytest.mark.parametrize("body", GATEWAY, ids=["web page", "XML", "nothing", "text"])
def test_the_answer_of_a_gateway_is_not_taken_for_the_content(body: bytes) -> None:
    """Status 200 with a page of its own: the point was deleted, and the image skipped for good as not an image."""
    row: Row = {"action": "index", "count": 1, "uri": "s3://b/1.jpg", "size": 900, "etag": "listed"}
    with FaultyS3(then=lambda handler: handler.send(200, body)) as server, _decoder() as decoder:
        done = _fetched(server, decoder, row)
    assert (done["action"], done["reason"], done["permanent"]) == ("failed", "unavailable", False)


@pytest.mark.parametrize("body", [b"a text " * 100, b""], ids=["text", "nothing"])
def test_refused_content_is_recorded_under_its_own_version(body: bytes) -> None:
    """It was recorded under the version of the listing, so that this one was never read."""
    row: Row = {"action": "index", "count": 1, "uri": "s3://b/1.jpg", "size": 900, "etag": "listed"}
    with FaultyS3(then=lambda handler: handler.send(200, body, ETag='"other"')) as server, _decoder() as decoder:
        done = _fetched(server, decoder, row)
    assert (done["action"], done["etag"], done["size"]) == ("skipped", "other", len(body))


def test_objects_without_access_are_failures_and_the_others_are_indexed(
    guarded: tuple[Guarded, FetchAndDecode],
) -> None:
    """Twenty objects of another account, one after the other, ended every run before its prune."""
    guarded[0].denied = {f"s3://b/{number:02}" for number in range(5, 48)}
    for _ in range(2):
        done = _fetch(guarded)
        assert [row["action"] for row in done] == ["index"] * 5 + ["failed"] * 43 + ["index"] * 2
        assert {row["reason"] for row in done} == {None, "access_denied"}
        assert done[0]["fetch_s"] > 0, "the time of failed reads is not counted"


def test_a_run_that_can_read_nothing_from_the_start_records_failures(
    guarded: tuple[Guarded, FetchAndDecode],
) -> None:
    guarded[0].denied = set(guarded[0].contents)
    assert all(row["reason"] == "access_denied" for row in _fetch(guarded))


def test_a_run_ends_if_an_object_that_it_has_read_is_refused(guarded: tuple[Guarded, FetchAndDecode]) -> None:
    assert all(row["action"] == "index" for row in _fetch(guarded))
    guarded[0].denied = set(guarded[0].contents)
    with pytest.raises(
        ConfigurationError, match=r"20 objects in a row was denied.*'s3://b/49', which this run has read"
    ):
        _fetch(guarded)
