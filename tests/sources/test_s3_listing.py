"""Listings of endpoints, and of gateways before them, that do not answer like S3."""

import itertools
from typing import Any

import pytest

from tests.sources import faulty
from tests.sources.faulty import Answer, FaultyS3, Handler, page
from viewfinder.errors import ViewfinderError
from viewfinder.sources.objects import Objects
from viewfinder.sources.s3_listing import MAX_EMPTY_PAGES, Listing

pytestmark = pytest.mark.slow


def _body(text: str, status: int = 200) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send(status, text.encode(), Content_Type="application/xml")

    return answer


def _entry(content: str) -> Answer:
    return _body(f"<ListBucketResult><IsTruncated>false</IsTruncated><Contents>{content}</Contents></ListBucketResult>")


NO_LISTINGS = {
    "nothing": _body(""),
    "status 204": _body("", 204),
    "web page": faulty.web_page,
    "web page in XML": _body("<html><body>Signed out</body></html>"),
    "error of a gateway": _body('<Error xmlns="http://gateway/"><Code>InternalError</Code></Error>'),
    "list of buckets": _body("<ListAllMyBucketsResult><Buckets/><Prefix>p</Prefix></ListAllMyBucketsResult>"),
    "entry without a key": _entry("<Size>1</Size>"),
    "size that is not a number": _entry("<Key>2</Key><Size>many</Size>"),
}


@pytest.mark.parametrize("name", NO_LISTINGS)
@pytest.mark.parametrize("ordered", [True, False], ids=["sequential", "parallel"])
def test_an_answer_that_is_no_listing_never_ends_one(name: str, ordered: bool) -> None:
    """The listing ended there without an error, and a prune deleted the points of all objects after it."""
    first = [page("1", token="t")] * (1 if ordered else 2)
    with FaultyS3([*first, NO_LISTINGS[name], page("2")]) as server, Objects(server.access()) as objects:
        assert {info.key for info in objects.list("s3://b", ordered=ordered)} >= {"2"}, "not asked again"
    with (
        FaultyS3(first, then=NO_LISTINGS[name]) as server,
        Objects(server.access(retry_s=0.0)) as objects,
        pytest.raises(ViewfinderError, match=r"does not answer like S3|Is that an S3 endpoint"),
    ):
        list(objects.list("s3://b", ordered=ordered))


@pytest.mark.parametrize("ordered", [True, False], ids=["sequential", "parallel"])
@pytest.mark.parametrize(
    "pages", [[("1", "2"), ("3", "4")], [("1", "2", "3"), ("1", "2"), ("1", "2", "3", "4")]], ids=["in turn", "growing"]
)
def test_pages_that_return_with_new_tokens_are_an_error(pages: list[tuple[str, ...]], ordered: bool) -> None:
    """Only the same page twice in a row was noticed."""
    numbers = itertools.count()

    def answer(handler: Handler) -> None:
        number = next(numbers)
        page(*pages[number % len(pages)], token=f"token-{number}")(handler)

    with (
        FaultyS3(then=answer) as server,
        Objects(server.access()) as objects,
        pytest.raises(ViewfinderError, match="repeated a page, so the listing would never end"),
    ):
        list(itertools.islice(objects.list("s3://b", ordered=ordered), 1000))


class EmptyPages:
    """An endpoint that has always another page, without an object."""

    where = "http://s3"

    def __init__(self) -> None:
        self.pages = 0

    def list_objects(self, request: dict[str, Any]) -> Any:
        self.pages += 1
        return {"IsTruncated": True, "NextContinuationToken": f"token-{self.pages}"}


def test_empty_pages_without_an_end_are_an_error() -> None:
    with pytest.raises(ViewfinderError, match=f"{MAX_EMPTY_PAGES + 1:,} empty pages one after another"):
        list(Listing(EmptyPages()).pages("b", ""))


@pytest.mark.parametrize(
    "pages",
    [
        [page("1", "2", token="t"), page("2", "3")],
        [page("1", "2", "2", token="t"), page("2", "2", "3")],
    ],
    ids=["token with the last key", "several versions"],
)
def test_a_key_that_is_listed_again_is_one_object(pages: list[Answer]) -> None:
    """It was counted twice, and encoded twice."""
    with FaultyS3(pages) as server, Objects(server.access()) as objects:
        assert [info.key for info in objects.list("s3://b")] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("written", "modified"),
    [
        ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
        ("2026-01-02 03:04:05", "2026-01-02T03:04:05Z"),
        ("Fri, 02 Jan 2026 03:04:05 GMT", "2026-01-02T03:04:05Z"),
        ("0500-01-02 03:04:05", "0500-01-02T03:04:05Z"),
        ("yesterday", ""),
        ("0000-00-00T00:00:00.000Z", ""),
        ("2016-12-31T23:59:60Z", ""),
        ("2026-02-30T00:00:00Z", ""),
        ("Mon, 30 Feb 2026 00:00:00 GMT", ""),
        ("0001-01-01T00:00:00+05:00", ""),
        ("9999-12-31T23:59:59-05:00", ""),
        ("", ""),
    ],
)
def test_times_are_read_in_any_usual_form(written: str, modified: str) -> None:
    """Their first 19 characters were taken for a time. One that does not exist ended the run, where it was compared."""
    entry = _entry(f"<Key>1</Key><Size>1</Size><LastModified>{written}</LastModified>")
    with FaultyS3([entry]) as server, Objects(server.access()) as objects:
        assert [info.last_modified for info in objects.list("s3://b")] == [modified]


def test_an_entry_without_a_size_has_an_unknown_one() -> None:
    with FaultyS3([_entry("<Key>1</Key>")]) as server, Objects(server.access()) as objects:
        assert [info.size for info in objects.list("s3://b")] == [-1]
