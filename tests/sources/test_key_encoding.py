"""Endpoints that encode keys in listings without saying so."""

from collections.abc import Callable
from urllib.parse import parse_qs, quote, quote_plus, urlsplit
from xml.sax.saxutils import escape

import pytest

from tests.sources import faulty
from tests.sources.faulty import FaultyS3, error, page
from viewfinder.errors import SourceError, ViewfinderError
from viewfinder.sources.objects import Objects

pytestmark = pytest.mark.slow


NOT_FOUND = error(404, "NoSuchKey")


def _keys(server: FaultyS3) -> list[str]:
    with Objects(server.access()) as objects:
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
    with FaultyS3(then=bucket) as server, Objects(server.access(threads=4)) as objects:
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
    with FaultyS3(then=bucket) as server, Objects(server.access(threads=4)) as objects:
        assert sorted(info.key for info in objects.list("s3://b", ordered=ordered)) == sorted(keys)
    assert len(bucket.looked_for) <= 5


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_the_prefix_of_a_listing_shows_how_its_keys_are_encoded(encode: Callable[[str], str]) -> None:
    """Credentials may list that prefix alone."""
    keys = ["a %20+/1.jpg", "a %20+/2.jpg", "a %20+/3.jpg"]
    bucket = _Bucket(keys, encode)
    with FaultyS3(then=bucket) as server, Objects(server.access()) as objects:
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
