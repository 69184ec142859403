"""Pages of ListObjectsV2. A listing is complete or raises: many endpoints have faults that would cut or repeat it."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote, unquote_plus

from viewfinder.errors import SourceError, ViewfinderError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.parallel_listing import ListingPage
from viewfinder.sources.skips import ARCHIVE_CLASSES
from viewfinder.sources.versions import clean_etag

_IN_UTC = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):\d\d:\d\d(\.\d*)?Z")  # 24:00 is the next day
# S3 may give empty pages while it skips deleted objects. Without an end, a faulty endpoint would be asked for ever.
MAX_EMPTY_PAGES = 100_000

Decode = Callable[[str], str]
FirstName = Callable[[str], str | None]  # of those with a prefix, as the endpoint writes it; None if there is none


class ListingRequests(Protocol):
    """The requests that a listing sends to an endpoint."""

    @property
    def where(self) -> str:
        """The address of the endpoint."""

    def list_objects(self, request: dict[str, Any]) -> Any:
        """The answer to one ListObjectsV2; raises `SourceError`, `ViewfinderError`."""


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
        last = ""
        for answer, is_truncated in self._answers(request):
            # The same key again: a token that repeats the last key of its page, or further versions of an object.
            entries = [*_without_repeated_keys(answer.get("Contents", ()), last)]
            last = entries[-1]["Key"] if entries else last
            decode = self._decoder(bucket, prefix, answer)
            found = [(decode(each["Key"]), each) for each in entries]
            objects = [info_of_entry(bucket, key, each) for key, each in found if not is_directory_marker(key, each)]
            shared = [decode(each["Prefix"]) for each in answer.get("CommonPrefixes", ())]
            yield ListingPage(objects, shared, is_truncated)

    def _answers(self, request: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
        """Yield the answers with the pages of a listing, and whether another follows."""
        seen = _SeenPages(f"{self._requests.where} in the listing of 's3://{request['Bucket']}/{request['Prefix']}'")
        while True:
            answer = self._requests.list_objects(request)
            token = seen.next_token(answer)
            yield answer, token is not None
            if token is None:
                return
            request.pop("StartAfter", None)
            request["ContinuationToken"] = token

    def _decoder(self, bucket: str, prefix: str, answer: Any) -> Decode:
        """Return what turns a name in this answer into the key or prefix."""
        # boto3 asks for percent-encoded names, and has decoded them if the answer says that they are.
        if answer.get("EncodingType") or not (names := [each for each in _names(answer) if "%" in each or "+" in each]):
            return _as_it_is
        with self._lock:
            if bucket not in self._encodings:
                self._encodings[bucket] = _Encoding(self._requests.where, lambda each: self._first_name(bucket, each))
            return self._encodings[bucket].decoder(prefix, names)

    def _first_name(self, bucket: str, prefix: str) -> str | None:
        answers = self._answers({"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1})
        try:
            return next((name for answer, _ in answers for name in _names(answer)), None)
        except SourceError as error:
            raise SourceError(
                f"{error} Names that begin with {prefix!r} were listed to find out whether the endpoint "
                "percent-encodes keys. Allow that, or list the objects in a manifest."
            ) from error


class _Encoding:
    """How the listings of one bucket encode names although their answers do not say it.

    Some endpoints encode names, others send them as they are, and a key may have a percent sign of its own. The prefix
    of a request is never encoded, so a name that is listed under it begins with it after the right decoder, which then
    decodes all pages.
    """

    def __init__(self, where: str, first_name: FirstName) -> None:
        self._where = where
        self._first_name = first_name
        self._decoders: list[Decode] = [_as_it_is, unquote, unquote_plus]  # those that are still possible

    def decoder(self, prefix: str, names: list[str]) -> Decode:
        """Return what decodes these names, which were listed under `prefix`.

        Raises `ViewfinderError` if the listings do not show it, `SourceError` if they are refused.
        """
        self._keep(lambda decode: decode(names[0]).startswith(prefix))
        existing = [name for name in names if self._is_ambiguous(name) and self._decide(name)]
        if unclear := [name for name in existing if self._is_ambiguous(name)]:
            raise ViewfinderError(
                f"{self._where} does not say whether it percent-encodes the keys in its listings, and its listings do "
                f"not show whether {unclear[0]!r} is encoded. Rename that object, or list the objects in a manifest."
            )
        return self._decoders[0]  # of a name that is still ambiguous no spelling exists any more

    def _decide(self, name: str) -> bool:
        """Drop the decoders that are wrong for an ambiguous name. Return False if nothing of that name exists."""
        listed: dict[str, str | None] = {}
        # The shortest first: a key in percent-encoding may be longer than a key can be.
        for spelling in reversed(self._spellings(name)):
            first = listed[spelling] = self._first_name(spelling)
            if first is not None:
                self._keep(partial(_explains, name, spelling, first))
            if not self._is_ambiguous(name):
                return True
        self._keep(lambda decode: listed.get(decode(name)) is not None)
        return any(first is not None for first in listed.values())

    def _keep(self, is_possible: Callable[[Decode], bool]) -> None:
        """Drop the other decoders. All are kept if none is possible: an object was deleted, or an answer is faulty."""
        self._decoders = [decode for decode in self._decoders if is_possible(decode)] or self._decoders

    def _is_ambiguous(self, name: str) -> bool:
        return len(self._decoders) > 1 and len(self._spellings(name)) > 1

    def _spellings(self, name: str) -> list[str]:
        return [*dict.fromkeys(decode(name) for decode in self._decoders)]


def _explains(name: str, prefix: str, first: str, decode: Decode) -> bool:
    """Return True if `decode` may be right where `name` was listed, and `first` under `prefix`."""
    return decode(first).startswith(prefix) and (decode(name) != prefix or first.startswith(name))


def _names(answer: Any) -> list[str]:
    """Return the keys and shared prefixes in an answer, as the endpoint writes them."""
    names = [each["Key"] for each in answer.get("Contents", ())]
    return names + [each["Prefix"] for each in answer.get("CommonPrefixes", ())]


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
        names = _names(answer)
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
    """Return a time in the form 2026-11-21T06:59:54Z, without the fraction; "" if it is none, such as 30 February.

    Listings write 2026-11-21T06:59:54.733Z, headers Sat, 21 Nov 2026 06:59:54 GMT.
    """
    modified = str(value)
    if _IN_UTC.fullmatch(modified) and _is_time(modified[:19]):  # 1 us for each object, the rest takes 7 us
        return f"{modified[:19]}Z"
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = parse(modified)
            found = found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
        return f"{found.replace(tzinfo=None).isoformat(timespec='seconds')}Z"
    return ""


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_restored(status: Any) -> bool:
    return bool(status.get("RestoreExpiryDate")) and not status.get("IsRestoreInProgress")


def _as_it_is(key: str) -> str:
    return key
