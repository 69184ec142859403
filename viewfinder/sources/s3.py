"""Objects in S3, read and listed through boto3; transient errors are retried."""

import difflib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from botocore.exceptions import IncompleteReadError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from viewfinder.errors import ObjectError, SourceError, SourceUnavailableError, ViewfinderError
from viewfinder.sources.access import CHECKED_BYTES, HeadCheck, ObjectAccess, ObjectContent, ObjectInfo, check_size
from viewfinder.sources.content_encoding import ENCODED_HEAD_BYTES, codings_of, decode_bytes, decode_file, decode_head
from viewfinder.sources.parallel_listing import list_parallel
from viewfinder.sources.s3_connection import S3Connection
from viewfinder.sources.s3_errors import (
    FAILURES,
    RETRYABLE_REASONS,
    explain,
    is_missing_bucket,
    reason,
    refuses_attributes,
)
from viewfinder.sources.s3_listing import Listing, utc_time
from viewfinder.sources.skips import ARCHIVE_CLASSES
from viewfinder.sources.uris import s3_parts
from viewfinder.sources.versions import Version, clean_etag

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from urllib3 import HTTPResponse

# From 128 KiB on malloc maps memory for each chunk, which costs a page per packet of a slow connection.
READ_CHUNK_BYTES = 120 * 1024
# At least one of them is in each answer to a listing.
_LISTING_FIELDS = ("IsTruncated", "KeyCount", "MaxKeys", "Name", "Contents", "CommonPrefixes")
# Even a hundred reads that share 1 Mbit/s are each faster.
MINIMUM_BYTES_PER_S = 1024


class S3Objects:
    """Objects of any S3-compatible endpoint by `s3://` URI; `connection` replaces that of boto3."""

    def __init__(self, access: ObjectAccess, connection: S3Connection | None = None) -> None:
        self._connection = connection or S3Connection(access)
        self._requests = _Requests(self._connection)
        self._listing = Listing(self._requests)

    def read(self, uri: str, max_bytes: int, check_head: HeadCheck | None = None) -> ObjectContent:
        return self._connection.retry(lambda: self._read(uri, max_bytes, check_head), uri)

    def _read(self, uri: str, max_bytes: int, check_head: HeadCheck | None) -> ObjectContent:
        answer = self._get(uri)
        codings = codings_of(answer.get("ContentEncoding"))
        with answer["Body"] as body:  # closing an unread body costs the connection, not the bytes
            chunks = _read_chunks(body, self._connection.access.read_timeout_s)
            modified = utc_time(answer.get("LastModified"))
            version = Version(clean_etag(answer.get("ETag")), answer.get("ContentLength", -1), modified)
            try:
                data = _receive(chunks, uri, max(0, version.size), max_bytes, check_head, codings)
                # An endpoint that announces no length sends all it has.
                version = version._replace(size=len(data))
                data = decode_bytes(data, codings, max_bytes, uri)
            except ObjectError as error:
                error.version = version
                raise
        return ObjectContent(data, version)

    def open(self, uri: str, max_bytes: int | None = None, *, whole: bool = True) -> BinaryIO:
        return self._connection.retry(lambda: self._open(uri, max_bytes, whole=whole), uri)

    def _open(self, uri: str, max_bytes: int | None, *, whole: bool) -> BinaryIO:
        answer = self._get(uri)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with answer["Body"] as body:
                check_size(uri, answer.get("ContentLength", 0), max_bytes)
                for chunk in _read_chunks(body, self._connection.access.read_timeout_s):
                    check_size(uri, file.tell() + len(chunk), max_bytes)
                    file.write(chunk)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return decode_file(cast(BinaryIO, file), codings_of(answer.get("ContentEncoding")), uri, max_bytes, whole=whole)

    def read_part(self, uri: str, start: int, stop: int, etag: str) -> bytes | None:
        return self._connection.retry(lambda: self._read_part(uri, start, stop, etag), uri)

    def _read_part(self, uri: str, start: int, stop: int, etag: str) -> bytes | None:
        answer = self._get(uri, Range=f"bytes={start}-{stop - 1}")
        with answer["Body"] as body:  # closing an unread body costs the connection, not the bytes
            is_part = str(answer.get("ContentRange", "")).startswith(f"bytes {start}-{stop - 1}/")
            if not is_part or clean_etag(answer.get("ETag")) != etag or codings_of(answer.get("ContentEncoding")):
                return None
            chunks = _read_chunks(body, self._connection.access.read_timeout_s)
            return _receive(chunks, uri, answer.get("ContentLength", 0), stop - start, None, [])

    def write(self, uri: str, path: Path) -> None:
        bucket, key = s3_parts(uri)

        def attempt() -> None:
            with path.open("rb") as file:
                self._connection.client.put_object(Bucket=bucket, Key=key, Body=file, **self._connection.payer)

        self._connection.retry(attempt, uri, doing="write")

    def stat(self, uri: str) -> ObjectInfo:
        return self._requests.stat(uri)

    def restored(self, uris: Sequence[str]) -> set[str]:
        try:
            if self._connection.is_aws:
                return set()
        except FAILURES:  # no credentials now: reading the objects will tell it
            return set()
        with ThreadPoolExecutor(self._connection.access.threads, thread_name_prefix="restored") as pool:
            return {
                uri for uri, is_restored in zip(uris, pool.map(self._is_restored, uris), strict=True) if is_restored
            }

    def _is_restored(self, uri: str) -> bool:
        try:
            return _is_restored(self._requests.head(uri))
        except ObjectError:
            return False

    def presigned_url(self, uri: str, expires_s: int, media_type: str, disposition: str) -> str | None:
        connection = self._connection
        if connection.access.anonymous:
            return None  # an unsigned request cannot choose the headers of its answer
        # A signature fits one region and one style of host names, which the client learns from answers alone.
        answer = self._requests.head(uri)
        if _is_archived(answer):
            raise ObjectError("archived", f"{uri!r} is archived. Restore it, so that it can be read.")
        if codings_of(answer.get("ContentEncoding")):
            return None  # many clients would not decode it
        bucket, key = s3_parts(uri)
        headers = {"ResponseContentType": media_type, "ResponseContentDisposition": disposition}
        parameters = {"Bucket": bucket, "Key": key, **headers, **connection.payer}
        return connection.retry(
            lambda: connection.client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s), uri
        )

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        bucket, key = s3_parts(source)
        itself = self._requests.stat_or_none(source)
        if itself is not None:
            yield itself
        prefix = _as_directory(key)
        threads = self._connection.access.threads
        # Directory buckets list in no order, so their listing cannot be split into ranges.
        if ordered or bucket.endswith("--x-s3") or threads == 1:
            for page in self._listing.pages(bucket, prefix):
                yield from page.objects
        else:
            list_pages = lambda below, after, shallow: self._listing.pages(bucket, below, after=after, shallow=shallow)  # noqa: E731
            for objects in list_parallel(list_pages, prefix, threads=threads):
                yield from objects

    def check(self, source: str) -> None:
        bucket, key = s3_parts(source)
        try:
            near = self._connection.retry_check(lambda client: self._similar_if_empty(client, bucket, key), source)
        except FAILURES as error:
            kind = SourceUnavailableError if reason(error) in RETRYABLE_REASONS else SourceError
            raise kind(self._requests.explain(error, bucket)) from error
        if near is None or self._requests.stat_or_none(source) is not None:
            return
        where = self._connection.where
        if not key:
            raise SourceError(f"The bucket {bucket!r} at {where} is empty.")
        hint = f" Similar names: {', '.join(map(repr, near))}." if near else ""
        raise SourceError(f"There is nothing at or under {source!r} ({where}).{hint}")

    def close(self) -> None:
        self._connection.close()

    def _get(self, uri: str, **options: Any) -> Any:
        """Send GetObject. Raises `ResponseParserError` if a gateway has answered 200 in place of the endpoint."""
        bucket, key = s3_parts(uri)
        answer = self._connection.client.get_object(Bucket=bucket, Key=key, **options, **self._connection.payer)
        if not (answer.get("ETag") or answer.get("LastModified")):  # an endpoint sends at least one of them
            answer["Body"].close()
            raise ResponseParserError("The answer has neither an ETag nor a time, so it did not come from S3")
        return answer

    def _similar_if_empty(self, client: "S3Client", bucket: str, key: str) -> Sequence[str] | None:
        """Return URIs with names similar to that of a prefix without objects, None if there is an object."""
        listing = Listing(_Requests(self._connection, client))
        if any(page.objects for page in listing.pages(bucket, _as_directory(key))):
            return None
        return self._similar_uris(client, bucket, key)

    def _similar_uris(self, client: "S3Client", bucket: str, key: str) -> Sequence[str]:
        parent, _, name = key.rstrip("/").rpartition("/")
        prefix = f"{parent}/" if parent else ""
        answer: Any = client.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", **self._connection.payer)
        names = [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
        names += [entry["Key"] for entry in answer.get("Contents", ())]
        shown = {one.removeprefix(prefix).rstrip("/"): f"s3://{bucket}/{one}" for one in names if one != prefix}
        close = difflib.get_close_matches(name, shown, n=3, cutoff=0.5)
        return [shown[one] for one in close or sorted(shown)[:5]]


class _Requests:
    """Requests of a listing, by the connection's client with its retries, or by a given client without."""

    def __init__(self, connection: S3Connection, client: "S3Client | None" = None) -> None:
        self._connection = connection
        self._client = client
        self._attributes: dict[str, Any] = {"OptionalObjectAttributes": ["RestoreStatus"]}

    @property
    def where(self) -> str:
        return self._connection.where

    def list_objects(self, request: dict[str, Any]) -> Any:
        if self._client is not None:
            return _list(self._client, {**request, **self._connection.payer})
        try:
            return self._list_with_attributes(request)
        except ObjectError as error:
            cause = error.__cause__
            assert isinstance(cause, FAILURES)
            kind = ViewfinderError if error.reason in RETRYABLE_REASONS else SourceError
            raise kind(self.explain(cause, request["Bucket"])) from cause

    def stat(self, uri: str) -> ObjectInfo:
        """Return the properties of one object. Raises `ObjectError`."""
        bucket, key = s3_parts(uri)
        answer = self.head(uri)
        return ObjectInfo(
            uri,
            bucket,
            key,
            answer.get("ContentLength", -1),  # unknown to a gateway that decodes the object
            clean_etag(answer.get("ETag")),
            utc_time(answer.get("LastModified")),
            archived=_is_archived(answer),
        )

    def head(self, uri: str) -> Any:
        """Return the answer to a HEAD request for one object. Raises `ObjectError`."""
        bucket, key = s3_parts(uri)
        if not key:
            raise ObjectError("not_found", f"{uri!r} is a bucket, not an object.")
        connection = self._connection
        return connection.retry(lambda: connection.client.head_object(Bucket=bucket, Key=key, **connection.payer), uri)

    def stat_or_none(self, source: str) -> ObjectInfo | None:
        """Return the properties of an object, None for a prefix. Raises `ViewfinderError`."""
        key = s3_parts(source)[1]
        if not key or key.endswith("/"):
            return None
        try:
            return self.stat(source)
        except ObjectError as error:
            # Credentials for `p/*` only are denied `p`: then `p` counts as missing.
            if error.reason in ("not_found", "access_denied", "refused"):
                return None
            raise ViewfinderError(error.message) from error

    def explain(self, error: Exception, bucket: str) -> str:
        """Return why a bucket cannot be listed, and what to do."""
        text = explain(error, bucket, self.where, anonymous=self._connection.access.anonymous)
        return text + self._bucket_hint(bucket) if is_missing_bucket(error) else text

    def _list_with_attributes(self, request: dict[str, Any]) -> Any:
        """List with the state of restored objects, or without where the endpoint does not know the parameter."""
        connection = self._connection

        def attempt() -> Any:
            return _list(connection.client, {**request, **self._attributes, **connection.payer})

        uri = f"s3://{request['Bucket']}"
        try:
            return connection.retry(attempt, uri, doing="list")
        except ObjectError as error:
            if not self._attributes or not refuses_attributes(error.__cause__):
                raise
            self._attributes = {}
            return connection.retry(attempt, uri, doing="list")

    def _bucket_hint(self, wanted: str) -> str:
        try:
            names = [entry["Name"] for entry in self._connection.client.list_buckets().get("Buckets", ())]
        except FAILURES:
            return " Check its name and VIEWFINDER_S3_ENDPOINT_URL."  # the credentials may not allow listing buckets
        if not names:
            return " The credentials own no bucket there; check VIEWFINDER_S3_ENDPOINT_URL."
        near = difflib.get_close_matches(wanted, names, n=10, cutoff=0.0)
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        return f" Existing buckets: {', '.join(map(repr, near))}{more}."


def _list(client: "S3Client", request: dict[str, Any]) -> Any:
    """Send ListObjectsV2. Raises `ResponseParserError` for another answer, which boto3 takes for an empty listing.

    A gateway may answer 200 with nothing, with a web page, or with an error of its own.
    """
    try:
        answer: Any = client.list_objects_v2(**request)
    except ValueError as error:  # a size that is not a number
        raise ResponseParserError(f"The listing has a value that cannot be read: {error}") from error
    if answer.keys().isdisjoint(_LISTING_FIELDS) or any("Key" not in each for each in answer.get("Contents", ())):
        raise ResponseParserError("The answer is not a listing")
    return answer


def _is_archived(answer: Mapping[str, Any]) -> bool:
    is_archived = answer.get("StorageClass") in ARCHIVE_CLASSES or bool(answer.get("ArchiveStatus"))
    return is_archived and not _is_restored(answer)


def _is_restored(answer: Mapping[str, Any]) -> bool:
    # AWS's header is x-amz-restore, that of Alibaba's own interface x-oss-restore.
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return any(name.endswith("-restore") and 'ongoing-request="false"' in text for name, text in headers.items())


def _receive(
    chunks: Iterable[bytes],
    uri: str,
    announced: int,
    max_bytes: int,
    check_head: HeadCheck | None,
    codings: list[str],
) -> bytes:
    """Return the bytes of a body. Raises `ObjectError` if there are too many, and what `check_head` raises.

    `check_head` sees the content without `codings`.
    """
    size, received, checked = 0, [], check_head is None
    needed = ENCODED_HEAD_BYTES if codings else CHECKED_BYTES
    for chunk in chunks:
        size += len(chunk)
        received.append(chunk)
        if check_head is not None and not checked and size >= needed:
            check_head(decode_head(b"".join(received)[:needed], codings)[:CHECKED_BYTES])
            checked = True
        if size > max_bytes or (checked and announced > max_bytes):
            break
    data = b"".join(received)
    if check_head is not None and not checked:
        check_head(decode_head(data[:needed], codings)[:CHECKED_BYTES])
    check_size(uri, max(size, announced), max_bytes)
    return data


def _read_chunks(body: "HTTPResponse", timeout_s: float) -> Iterator[bytes]:
    """Yield the chunks of a body; raise if it is shorter than announced or slower than `MINIMUM_BYTES_PER_S`.

    A socket's time limit applies to each packet: a server that sends a byte a minute would block a reader for days.
    """
    since, received = time.monotonic(), 0
    while chunk := body.read1(READ_CHUNK_BYTES):
        yield chunk
        received += len(chunk)
        seconds = time.monotonic() - since
        if seconds >= timeout_s:
            if received < MINIMUM_BYTES_PER_S * seconds and body.length_remaining != 0:
                raise HTTPTimeoutError(
                    f"{received:,} bytes in {seconds:.1f} s, less than {MINIMUM_BYTES_PER_S:,} a second"
                )
            since, received = time.monotonic(), 0
    if body.length_remaining:
        raise IncompleteReadError(actual_bytes=body.tell(), expected_bytes=body.tell() + body.length_remaining)


def _as_directory(key: str) -> str:
    return key if not key or key.endswith("/") else f"{key}/"
