"""When is an object unchanged? The one rule by which contents are compared, and what is recorded of each.

An object's version is its ETag, its size in the store, and the time of its last change:

1. Two sizes that are known and differ mean another content.
2. The quotes and the weak prefix `W/` are no part of an ETag. Two ETags that differ mean another content.
3. Two equal ETags in the form of an MD5 digest, alone or of a multipart upload (`-5`), mean the same content.
4. Other equal ETags, or missing ones, mean the same content if the times are equal too. A time that is not known is
   left out where both ETags are known.
5. An ETag that a listing gives to objects of different sizes says nothing, and counts as missing.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

_DIGEST = re.compile(r"[0-9a-fA-F]{32}(-\d+)?")
_DIGEST_OF_NOTHING = hashlib.md5(b"", usedforsecurity=False).hexdigest()


class Version(NamedTuple):
    """The version of an object's content: ETag ("" if unknown), bytes in the store (-1), ISO 8601 in UTC ("")."""

    etag: str
    size: int = -1
    last_modified: str = ""

    @property
    def is_known(self) -> bool:
        """True if this can be compared; otherwise the object must be asked for its properties."""
        return bool(self.etag) or (self.size >= 0 and bool(self.last_modified))


def clean_etag(text: str | None) -> str:
    """Return an ETag without quotes and `W/`; digests in lower case."""
    etag = (text or "").strip()
    etag = etag.removeprefix("W/").strip().strip('"')
    return etag.lower() if _DIGEST.fullmatch(etag) else etag


def is_same(known: Version, listed: Version) -> bool:
    """Return True if both are versions of the same content, by the rule above."""
    if known.size >= 0 and listed.size >= 0 and known.size != listed.size:
        return False
    if known.etag and listed.etag:
        if known.etag != listed.etag:
            return False
        if _is_digest(listed):
            return True
        return not (known.last_modified and listed.last_modified) or known.last_modified == listed.last_modified
    return _has_size_and_time(known, listed)


def is_same_or_later(known: Version, other: Version) -> bool:
    """Return True if `known` is a version of the same content as `other`, or of one that was written later."""
    is_later = bool(other.last_modified) and known.last_modified > other.last_modified
    return is_later or is_same(known, other)


def is_probably_same(known: Version, listed: Version) -> bool:
    """Return True if size and time are the same, and ETags that differ are of different forms (`_form`).

    An endpoint gave the MD5 digest of an object before, and that of a multipart upload now, or the same "0" for all
    objects before. Two ETags of one form that differ are of two contents, even within one second.
    """
    return _has_size_and_time(known, listed) and (known.etag == listed.etag or _form(known) != _form(listed))


def _has_size_and_time(known: Version, listed: Version) -> bool:
    sizes = 0 <= known.size == listed.size
    return sizes and bool(listed.last_modified) and known.last_modified == listed.last_modified


def _form(version: Version) -> str:
    """Return "digest" for an MD5, the suffix of a multipart upload ("-5"), and the length of any other ETag."""
    if _is_digest(version):
        return version.etag[32:] or "digest"
    return str(len(version.etag))


def version_read(listed: Version, read: Version) -> Version:
    """Return the version to record for content that was read after its listing.

    If the object did not change in between, it is the version of the listing, with which the next listing is compared:
    endpoints exist whose listing and GET give different ETags for the same object, and gateways that send it decoded,
    with another size. If it did change, the next listing shows that.
    """
    if listed.size >= 0 and is_listed(listed, read):
        return listed
    return Version(read.etag, read.size, read.last_modified or listed.last_modified)


def is_listed(listed: Version, read: Version) -> bool:
    """Return True if an object that was read has not changed since its listing, whatever its size.

    Two digests that differ are of two contents, even within one second. Other ETags may differ for the same object, and
    its times by a second: some endpoints cut a fraction off in listings and round it up in headers.
    """
    if listed.etag == read.etag:
        return True
    if _is_digest(listed) and _is_digest(read):
        return False
    if not (listed.last_modified and read.last_modified):
        return False
    times = (datetime.fromisoformat(each.last_modified) for each in (listed, read))
    return abs(next(times) - next(times)) <= timedelta(seconds=1)


def constant_etags(listed: Iterable[Version]) -> frozenset[str]:
    """Return the ETags that objects of different sizes have, so that they say nothing about the content."""
    sizes: dict[str, set[int]] = defaultdict(set)
    for each in listed:
        if each.etag and each.size >= 0:
            sizes[each.etag].add(each.size)
    return frozenset(etag for etag, found in sizes.items() if len(found) > 1)


def _is_digest(version: Version) -> bool:
    if _DIGEST.fullmatch(version.etag) is None or len(set(version.etag)) == 1:
        return False
    return version.etag != _DIGEST_OF_NOTHING or version.size <= 0


def version_of(row: Mapping[str, Any]) -> Version:
    """The version in a row or a payload; fields that are missing or null are unknown."""
    size = row.get("size")
    return Version(row.get("etag") or "", -1 if size is None else size, row.get("last_modified") or "")
