"""Pages of ListObjectsV2. A listing is complete or raises: many endpoints have faults that would cut or repeat it."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import unquote, unquote_plus

from viewfinder.errors import ViewfinderError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.parallel_listing import ListingPage
from viewfinder.sources.skips import ARCHIVE_CLASSES
from viewfinder.sources.versions import clean_etag

_IN_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*)?Z")
# S3 may give empty pages while it skips deleted objects. Without an end, a faulty endpoint would be asked for ever.
MAX_EMPTY_PAGES = 100_000

Decode = Callable[[str], str]


class ListingRequests(Protocol):
    """The requests that a listing sends to an endpoint."""

    @property
    def where(self) -> str:
        """The address of the endpoint."""

    def list_objects(self, request: dict[str, Any]) -> Any:
        """The answer to one ListObjectsV2; raises `SourceError`, `ViewfinderError`."""

    def exists(self, bucket: str, key: str) -> bool | None:
        """True if there is an object with this key, None if the endpoint refuses to say; raises `ViewfinderError`."""


class Listing:
    """Lists the buckets of one endpoint, and remembers how the endpoint writes keys. Serves all threads."""

    def __init__(self, requests: ListingRequests) -> None:
        self._requests = requests
        self._lock = threading.Lock()
        self._encodings: dict[str, _Encoding] = {}  # by bucket

    def pages(self, bucket: str, prefix: str, *, after: str = "", shallow: bool = False) -> Iterator[ListingPage]:
        """Yield the keys that begin with `prefix`, after `after`, one page per request, in UTF-8 order.

        `shallow` stops at the next `/`: deeper keys are returned as prefixes. Raises `SourceError`, `ViewfinderError`.
        """
        request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        if after:
            request["StartAfter"] = after
        if shallow:
            request["Delimiter"] = "/"
        seen = _SeenPages(f"{self._requests.where} in the listing of 's3://{bucket}/{prefix}'")
        last = ""
        while True:
            answer = self._requests.list_objects(request)
            token = seen.next_token(answer)
            # The same key again: a token that repeats the last key of its page, or further versions of an object.
            entries = [*_without_repeated_keys(answer.get("Contents", ()), last)]
            last = entries[-1]["Key"] if entries else last
            shared = answer.get("CommonPrefixes", ())
            names = [*(each["Key"] for each in entries), *(each["Prefix"] for each in shared)]
            decode = self._decoder(bucket, answer, names)
            found = [(decode(each["Key"]), each) for each in entries]
            objects = [info_of_entry(bucket, key, each) for key, each in found if not is_directory_marker(key, each)]
            yield ListingPage(objects, [decode(each["Prefix"]) for each in shared], token is not None)
            if token is None:
                return
            request.pop("StartAfter", None)
            request["ContinuationToken"] = token

    def _decoder(self, bucket: str, answer: Any, names: list[str]) -> Decode:
        """Return what turns a name in this answer into the key or prefix."""
        # boto3 asks for percent-encoded names, and has decoded them if the answer says that they are.
        if answer.get("EncodingType") or not (names := [name for name in names if "%" in name or "+" in name]):
            return _as_it_is
        with self._lock:
            return self._encodings.setdefault(bucket, _Encoding(self._requests, bucket)).decoder(names)


class _Encoding:
    """How the listings of one bucket encode names although their answers do not say it.

    Some endpoints encode names, others send them as they are, and a key may have a percent sign of its own. A name that
    exists in one spelling only shows which decoder is right. That one then decodes all pages.
    """

    def __init__(self, requests: ListingRequests, bucket: str) -> None:
        self._requests = requests
        self._bucket = bucket
        self._decoders: list[Decode] = [_as_it_is, unquote, unquote_plus]  # those that are still possible
        self._guessed: dict[str, str] = {}  # names that nothing showed how to decode, and what was returned for them

    def decoder(self, names: list[str]) -> Decode:
        """Return what decodes these names. Raises `ViewfinderError` if earlier names were decoded otherwise."""
        while ambiguous := [name for name in names if len(self._spellings(name)) > 1]:
            if not self._decide(ambiguous):
                self._guessed.update((name, self._decoders[0](name)) for name in ambiguous)
                break
        if wrong := [name for name, guess in self._guessed.items() if self._decoders[0](name) != guess]:
            self._guessed = {}
            raise ViewfinderError(
                f"{self._requests.where} percent-encodes the keys in its listings of {self._bucket!r} and does not "
                f"say so, which no object showed when {wrong[0]!r} was listed. Run again."
            )
        return self._decoders[0]

    def _spellings(self, name: str) -> list[str]:
        return [*dict.fromkeys(decode(name) for decode in self._decoders)]

    def _decide(self, ambiguous: list[str]) -> bool:
        """Drop the decoders that the first telling name proves wrong.

        Return False if none tells: all have been deleted, or exist in several spellings.
        """
        for name in ambiguous:
            existing = [spelling for spelling in self._spellings(name) if self._exists(spelling)]
            if len(existing) == 1:
                self._decoders = [decode for decode in self._decoders if decode(name) == existing[0]]
                return True
        return False

    def _exists(self, name: str) -> bool:
        exists = None if name.endswith("/") else self._requests.exists(self._bucket, name)
        if exists is None:  # a prefix, or an object that may not be read
            answer = self._requests.list_objects({"Bucket": self._bucket, "Prefix": name, "MaxKeys": 1})
            exists = bool(answer.get("Contents") or answer.get("CommonPrefixes"))
        return exists


def _without_repeated_keys(entries: Iterable[Any], last: str) -> Iterator[Any]:
    for entry in entries:
        if entry["Key"] != last:
            last = entry["Key"]
            yield entry


def is_directory_marker(key: str, entry: Any) -> bool:
    """Return True for the empty object by which a folder without files is kept."""
    return bool(entry.get("Size") == 0 and key.endswith("/"))


def info_of_entry(bucket: str, key: str, entry: Any) -> ObjectInfo:
    """Return the properties in one entry of a listing."""
    return ObjectInfo(
        f"s3://{bucket}/{key}",
        bucket,
        key,
        entry.get("Size", -1),
        clean_etag(entry.get("ETag")),
        utc_time(entry.get("LastModified")),
        archived=entry.get("StorageClass") in ARCHIVE_CLASSES and not _is_restored(entry.get("RestoreStatus") or {}),
    )


class _SeenPages:
    """Finds a listing that would not end: a token or page that is repeated, or one empty page after another."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._tokens: set[int] = set()  # their hashes: a billion objects have a million tokens
        self._first_names: set[int] = set()
        self._empty = 0

    def next_token(self, answer: Any) -> str | None:
        """Return the token of the next page, None after the last page. Raises `ViewfinderError`."""
        token = answer.get("NextContinuationToken") or None
        if not answer.get("IsTruncated", token is not None):
            return None
        if token is None:
            raise ViewfinderError(
                f"{self._where} truncated a page and gave no continuation token, so the rest cannot be listed. "
                "Does the endpoint support ListObjectsV2?"
            )
        names = [each["Key"] for each in answer.get("Contents", ())]
        names += [each["Prefix"] for each in answer.get("CommonPrefixes", ())]
        self._empty = 0 if names else self._empty + 1
        fault = None
        if hash(token) in self._tokens:
            fault = f"repeated the continuation token {token!r}"
        elif names and hash(names[0]) in self._first_names:
            fault = "repeated a page"
        elif self._empty > MAX_EMPTY_PAGES:
            fault = f"gave {self._empty:,} empty pages one after another"
        if fault is not None:
            raise ViewfinderError(
                f"{self._where} {fault}, so the listing would never end. "
                "This is a fault of the endpoint; ask its vendor, or list the objects in a manifest."
            )
        self._tokens.add(hash(token))
        self._first_names.update(map(hash, names[:1]))
        return str(token)


def utc_time(value: object) -> str:
    """Return a time in the form 2026-11-21T06:59:54Z, without the fraction; "" if it is none.

    Listings write 2026-11-21T06:59:54.733Z, headers Sat, 21 Nov 2026 06:59:54 GMT.
    """
    modified = str(value)
    if _IN_UTC.fullmatch(modified):
        return f"{modified[:19]}Z"
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = parse(modified)
        except ValueError:
            continue
        return f"{found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return ""


def _is_restored(status: Any) -> bool:
    return bool(status.get("RestoreExpiryDate")) and not status.get("IsRestoreInProgress")


def _as_it_is(key: str) -> str:
    return key
