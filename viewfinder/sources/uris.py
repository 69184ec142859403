"""Canonical URIs of objects, and the point ids made of them.

    s3://BUCKET/KEY          KEY is literal: no escapes; `//`, `..`, `#`, `?` and `%` have no meaning.
                             BUCKET may be the ARN of an access point, `arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME`
    file:///ABSOLUTE/PATH    the percent-encoded bytes of the path, so that every file name survives the round trip

A point's id is derived from the URI, so an object must have exactly one spelling.
"""

import itertools
import os
import re
import unicodedata
import uuid
from urllib.parse import quote, unquote_to_bytes

from viewfinder.errors import SourceError

POINT_NAMESPACE = uuid.UUID("6ad3b0f2-6a5e-4d0c-9d3e-3f4d5f1d7a10")
"""Namespace of the point ids. A change here orphans every point of every index."""

# Limit on the spellings of one name: each part of a path that has accents doubles their number.
_MAX_SPELLINGS = 64
# The characters in ASCII whose twins are equal to them in NFC: U+212A, U+037E and U+1FEF.
_COMPOSED_IN_ASCII = frozenset("K;`")
# An access point of S3, also of several regions, of S3 on Outposts or of Object Lambda, and the key after it.
_ACCESS_POINT = re.compile(
    r"(arn:[^:/]+:(?:s3|s3-outposts|s3-object-lambda):[^:/]*:[^:/]*:(?:outpost[:/][^:/]+[:/])?accesspoint[:/][^:/]+)"
    r"(?:/(.*))?",
    re.DOTALL,
)

SUPPORTED = "supported are s3://BUCKET/KEY, file:///PATH and local paths"


def canonical_uri(text: str) -> str:
    """Return the canonical URI of a source or object: `s3://` unchanged, local paths as absolute `file://`.

    `s3://b/` becomes `s3://b`. Local paths are normalised as text (`.`, `..`, doubled slashes); symbolic links are not
    resolved. Raises `SourceError` for other schemes.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() == "s3":
        return _canonical_s3(text, rest)
    if separator and scheme.lower() == "file":
        host, slash, path = rest.partition("/")
        if host.lower() not in ("", "localhost") or not slash:
            raise SourceError(f"{text!r} names the host {host!r}: write file:///ABSOLUTE/PATH, with three slashes.")
        return file_uri(os.fsdecode(unquote_to_bytes("/" + path)))
    if separator and scheme.isascii() and scheme.replace("+", "").isalnum():
        hint = " Write s3:// instead." if scheme.lower() in ("s3a", "s3n") else ""
        raise SourceError(f"Cannot read {text!r}: {scheme}:// is not supported; {SUPPORTED}.{hint}")
    if not text:
        raise SourceError(f"The source is empty; {SUPPORTED}.")
    return file_uri(text)


def source_uri(text: str) -> str:
    """Return the canonical URI of a source: as `canonical_uri`, and `s3://b/p/` becomes `s3://b/p`.

    Both list the same objects, so they are one source. `s3://b/p//` is another prefix and stays.
    """
    uri = canonical_uri(text)
    return uri[:-1] if uri.startswith("s3://") and uri.endswith("/") and not uri.endswith("//") else uri


def point_id(uri: str) -> str:
    """Return the id of an object's point, the same in every collection: UUIDv5 of the canonical URI."""
    return str(uuid.uuid5(POINT_NAMESPACE, uri))


def spellings(name: str) -> list[str]:
    """Return the spellings of a URI, key or text that look the same, the given one first: most names have only one.

    A keyboard produces composed letters (Unicode's NFC), macOS writes file names with separate accents (NFD). The parts
    of a path may differ in this, because a directory and its files can come from different machines.
    """
    if name.startswith("file://"):
        path = file_path(name)
        others = [] if path.isascii() else _spellings(path)[1:]
        return [name, *(f"file://{quote(os.fsencode(each))}" for each in others)]
    return _spellings(name)


def has_one_spelling(uri: str) -> bool:
    """Return True if no other URI has the same composed form: it is in ASCII, without what others are composed to."""
    name = file_path(uri) if uri.startswith("file://") else uri
    return name.isascii() and not _COMPOSED_IN_ASCII.intersection(name)


def composed(name: str) -> str:
    """Return a URI, key or text with composed letters (Unicode's NFC), to compare it with what a person typed."""
    if name.startswith("file://"):
        path = file_path(name)
        return name if path.isascii() else f"file://{quote(os.fsencode(unicodedata.normalize('NFC', path)))}"
    return unicodedata.normalize("NFC", name)


def s3_parts(uri: str) -> tuple[str, str]:
    """Return bucket and key of a canonical `s3://` URI; the key is "" for a bare bucket."""
    return _split_bucket(uri.removeprefix("s3://"))


def file_uri(path: str) -> str:
    """Return the canonical URI of a local path."""
    if "\0" in path:
        raise SourceError(f"The path {path!r} contains a NUL character.")
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - pathlib cannot normalise without resolving links
    try:
        name = os.fsencode("/" + path.lstrip("/"))  # POSIX lets a path keep two leading slashes
    except UnicodeEncodeError as error:
        raise SourceError(f"The path {path!r} contains a lone surrogate, which no file name can.") from error
    return "file://" + quote(name)


def file_path(uri: str) -> str:
    """Return the path of a canonical `file://` URI: the inverse of `file_uri`."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def display_key(path: str) -> str:
    """Return a local path as text for tables and payloads; bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return bucket and key of a canonical URI; a local file has the bucket "" and its path as key."""
    return s3_parts(uri) if uri.startswith("s3://") else ("", display_key(file_path(uri)))


def _spellings(path: str) -> list[str]:
    parts = [
        dict.fromkeys((part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)))
        for part in path.split("/")
    ]
    return ["/".join(chosen) for chosen in itertools.islice(itertools.product(*parts), _MAX_SPELLINGS)]


def _canonical_s3(text: str, rest: str) -> str:
    bucket, key = _split_bucket(rest)
    if bucket.lower().startswith("arn:") and not _ACCESS_POINT.match(rest):
        raise SourceError(
            f"{text!r} is not the ARN of an access point; write "
            "s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME[/PREFIX], or s3://BUCKET/PREFIX for a bucket."
        )
    if not bucket:
        raise SourceError(f"{text!r} has no bucket; write s3://BUCKET or s3://BUCKET/PREFIX.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{text!r} is not valid Unicode, which S3 keys always are.") from error
    bucket = bucket.replace("accesspoint:", "accesspoint/")  # both are in use for access points
    return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"


def _split_bucket(rest: str) -> tuple[str, str]:
    if access_point := _ACCESS_POINT.fullmatch(rest):
        return access_point[1], access_point[2] or ""
    bucket, _, key = rest.partition("/")
    return bucket, key
