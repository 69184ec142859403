"""Objects in S3, read and listed through boto3; transient errors are retried."""

import difflib
import functools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, IncompleteReadError, ProfileNotFound
from s3transfer.exceptions import RetriesExceededError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from viewfinder.backoff import Backoff
from viewfinder.errors import ObjectError, SourceError, ViewfinderError
from viewfinder.sources.access import ObjectAccess, ObjectInfo
from viewfinder.sources.parallel_listing import ListingPage, list_parallel
from viewfinder.sources.s3_errors import (
    FAILURES,
    RETRYABLE_REASONS,
    explain,
    is_missing_bucket,
    reason,
    refuses_credentials,
    summarize,
)
from viewfinder.sources.uris import s3_parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from urllib3 import HTTPResponse

T = TypeVar("T")

# From 128 KiB on malloc maps memory for each chunk, which costs a page per packet of a slow connection.
READ_CHUNK_BYTES = 120 * 1024
# Even a hundred reads that share 1 Mbit/s are each faster.
MINIMUM_BYTES_PER_S = 1024
MAXIMUM_PAUSE_S = 10.0
CHECK_TIMEOUT_S = 10.0


class S3Objects:
    """Objects of any S3-compatible endpoint by `s3://` URI. One client, created at first use, serves all threads."""

    def __init__(self, access: ObjectAccess) -> None:
        self._access = access
        self._backoff = Backoff(access.retry_s, first_s=access.backoff_s, maximum_s=MAXIMUM_PAUSE_S)
        self._lock = threading.Lock()
        self._lazy_client: S3Client | None = None
        self._credentials: object = None
        self._endpoint = access.endpoint_url or "S3"

    def read(self, uri: str, max_bytes: int, etag: str = "") -> tuple[bytes, str]:
        bucket, key = s3_parts(uri)

        def attempt() -> tuple[bytes, str]:
            answer: Any = self._client.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:  # closing an unread body costs the connection, not the bytes
                found = _unquoted(answer.get("ETag", ""))
                if etag and found != etag:
                    raise ObjectError("changed", f"{uri!r} changed since it was listed.")
                size, chunks = 0, []
                if answer.get("ContentLength", 0) <= max_bytes:
                    for chunk in _read_chunks(body, self._access.read_timeout_s):
                        size += len(chunk)
                        if size > max_bytes:
                            break
                        chunks.append(chunk)
                    else:
                        return b"".join(chunks), found
            size = max(size, answer.get("ContentLength", 0))
            raise ObjectError("too_many_bytes", f"{uri!r} has {size} bytes, more than {max_bytes}.", permanent=True)

        return self._retry(attempt, uri)

    def open(self, uri: str) -> BinaryIO:
        bucket, key = s3_parts(uri)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it

        def attempt() -> None:
            file.seek(0)
            file.truncate()
            try:
                self._client.download_fileobj(bucket, key, file)
            except RetriesExceededError as error:  # s3transfer hides the cause in it
                raise error.last_exception from error

        try:
            self._retry(attempt, uri)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast(BinaryIO, file)

    def write(self, uri: str, path: Path) -> None:
        bucket, key = s3_parts(uri)

        def attempt() -> None:
            with path.open("rb") as file:
                self._client.put_object(Bucket=bucket, Key=key, Body=file)

        self._retry(attempt, uri, doing="write")

    def stat(self, uri: str) -> ObjectInfo:
        bucket, key = s3_parts(uri)
        if not key:
            raise ObjectError("not_found", f"{uri!r} is a bucket, not an object.")
        answer: Any = self._retry(lambda: self._client.head_object(Bucket=bucket, Key=key), uri)
        modified = str(answer.get("LastModified", ""))
        return ObjectInfo(
            uri, bucket, key, answer["ContentLength"], _unquoted(answer.get("ETag", "")), _iso_of_header(modified)
        )

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        bucket, key = s3_parts(source)
        itself = self._stat_or_none(source)
        if itself is not None:
            yield itself
        prefix = _as_directory(key)
        # Directory buckets list in no order, so their listing cannot be split into ranges.
        if ordered or bucket.endswith("--x-s3") or self._access.threads == 1:
            for page in self.pages(bucket, prefix):
                yield from page.objects
        else:
            list_pages = lambda below, after, shallow: self.pages(bucket, below, after=after, shallow=shallow)  # noqa: E731
            for objects in list_parallel(list_pages, prefix, threads=self._access.threads):
                yield from objects

    def pages(self, bucket: str, prefix: str, *, after: str = "", shallow: bool = False) -> Iterator[ListingPage]:
        """Yield the keys that begin with `prefix`, after `after`, one page per request, in UTF-8 order.

        `shallow` stops at the next `/`: deeper keys are returned as prefixes. Raises `SourceError`, `ViewfinderError`.
        """
        request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        if after:
            request["StartAfter"] = after
        if shallow:
            request["Delimiter"] = "/"
        while True:
            answer: Any = self._listing(request)
            objects = [_info(bucket, entry) for entry in answer.get("Contents", ()) if not _is_marker(entry)]
            prefixes = [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
            more = bool(answer.get("IsTruncated"))
            if more and not answer.get("NextContinuationToken"):
                raise ViewfinderError(
                    f"{self._where()} truncated the listing of 's3://{bucket}/{prefix}' without a continuation token. "
                    "Does the endpoint support ListObjectsV2?"
                )
            yield ListingPage(objects, prefixes, more)
            if not more:
                return
            request.pop("StartAfter", None)
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def check(self, source: str) -> None:
        bucket, key = s3_parts(source)
        with closing(self._connect(check=True)) as client:
            try:
                found = client.list_objects_v2(Bucket=bucket, Prefix=_as_directory(key), MaxKeys=10).get("Contents", ())
                if not all(_is_marker(entry) for entry in found):
                    return
                near = self._similar_uris(client, bucket, key)
            except FAILURES as error:
                raise SourceError(self._explain(error, bucket, client)) from error
        if self._stat_or_none(source) is not None:
            return
        if not key:
            raise SourceError(f"The bucket {bucket!r} at {self._where()} is empty.")
        hint = f" Similar names: {', '.join(map(repr, near))}." if near else ""
        raise SourceError(f"There is nothing at or under {source!r} ({self._where()}).{hint}")

    def close(self) -> None:
        with self._lock:
            if self._lazy_client is not None:
                self._lazy_client.close()
                self._lazy_client = None

    @property
    def _client(self) -> "S3Client":
        with self._lock:
            if self._lazy_client is None:
                self._lazy_client = self._connect()
            return self._lazy_client

    def _connect(self, *, check: bool = False) -> "S3Client":
        """Return a client without retries: `_retry` covers reading the body too, unlike botocore's own retries."""
        access = self._access
        try:
            core = _session()
            # Parsing the 1,000 dates of a page took 32 of its 49 ms of CPU; S3 writes them in the format used here.
            # Expiry dates of credentials in the same session may be text: botocore parses those itself.
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            session = boto3.Session(botocore_session=core)
            options: dict[str, Any] = {
                "connect_timeout": access.connect_timeout_s,
                "read_timeout": min(access.read_timeout_s, CHECK_TIMEOUT_S) if check else access.read_timeout_s,
                "max_pool_connections": max(access.threads, 10),
                "retries": {"mode": "standard", "total_max_attempts": 2 if check else 1},
                # Other vendors' endpoints fail on newer checksums. The length is verified, and TLS protects the rest.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
            if access.anonymous:
                options["signature_version"] = UNSIGNED
            style = (core.get_scoped_config().get("s3") or {}).get("addressing_style")
            client = session.client("s3", endpoint_url=access.endpoint_url, config=Config(**options))
            if style is None and not str(client.meta.endpoint_url).endswith((".amazonaws.com", ".amazonaws.com.cn")):
                # bucket.localhost:9000 rarely resolves. The endpoint may also come from AWS_ENDPOINT_URL or a profile.
                client.close()
                path_style = Config(**options, s3={"addressing_style": "path"})
                client = session.client("s3", endpoint_url=access.endpoint_url, config=path_style)
        except ProfileNotFound as error:
            known = ", ".join(map(repr, botocore.session.Session().available_profiles)) or "none"
            raise SourceError(f"{error}. Existing profiles: {known}. Check AWS_PROFILE.") from error
        except (BotoCoreError, ValueError) as error:
            raise SourceError(f"Cannot set up access to S3 at {self._where()}: {error}") from error
        self._endpoint = str(client.meta.endpoint_url)
        if not check and not access.anonymous:
            self._credentials = _current_credentials(core)
        return client

    def _retry(self, attempt: Callable[[], T], uri: str, doing: str = "read") -> T:
        """Run `attempt` until it succeeds, fails permanently, or `retry_s` has passed; raises `ObjectError`."""
        backoff = self._backoff
        started, attempts, renewed = backoff.clock(), 0, False
        while True:
            attempts += 1
            client = self._client
            try:
                return attempt()
            except FAILURES as error:
                if not renewed and refuses_credentials(error) and self._discard_client(client):
                    renewed = True
                    continue
                why = reason(error)
                pause_s = backoff.pause_s(attempts, None)
                # One hanging read may use up the deadline: a second attempt is always made.
                late = attempts > 1 and backoff.clock() - started + pause_s > backoff.deadline_s
                if why not in RETRYABLE_REASONS or late:
                    after = f" after {attempts} attempts" if attempts > 1 else ""
                    raise ObjectError(
                        why, f"Could not {doing} {uri!r}{after}: {summarize(error, self._where())}"
                    ) from error
            backoff.sleep(pause_s)

    def _discard_client(self, refused: "S3Client") -> bool:
        """Discard a client whose credentials were refused if boto3's chain has newer ones; return True if it has.

        A client reads credentials from files once, and a job that runs for days outlives rotated ones.
        """
        if self._access.anonymous:
            return False
        with self._lock:
            if self._lazy_client is refused:
                if (keys := _current_credentials(_session())) is None or keys == self._credentials:
                    return False
                self._lazy_client = None  # not closed: other threads may still use it
            return True

    def _listing(self, request: dict[str, Any]) -> Any:
        try:
            return self._retry(lambda: self._client.list_objects_v2(**request), f"s3://{request['Bucket']}")
        except ObjectError as error:
            cause = error.__cause__
            assert isinstance(cause, FAILURES)
            kind = ViewfinderError if error.reason in RETRYABLE_REASONS else SourceError
            raise kind(self._explain(cause, request["Bucket"], self._client)) from cause

    def _explain(self, error: Exception, bucket: str, client: "S3Client") -> str:
        text = explain(error, bucket, self._where(), anonymous=self._access.anonymous)
        return text + self._bucket_hint(client, bucket) if is_missing_bucket(error) else text

    def _stat_or_none(self, source: str) -> ObjectInfo | None:
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

    def _similar_uris(self, client: "S3Client", bucket: str, key: str) -> Sequence[str]:
        parent, _, name = key.rstrip("/").rpartition("/")
        prefix = f"{parent}/" if parent else ""
        answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/")
        names = [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
        names += [entry["Key"] for entry in answer.get("Contents", ())]
        shown = {one.removeprefix(prefix).rstrip("/"): f"s3://{bucket}/{one}" for one in names if one != prefix}
        close = difflib.get_close_matches(name, shown, n=3, cutoff=0.5)
        return [shown[one] for one in close or sorted(shown)[:5]]

    def _where(self) -> str:
        parts = urlsplit(self._endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "S3"  # without a password

    def _bucket_hint(self, client: "S3Client", wanted: str) -> str:
        try:
            names = [entry["Name"] for entry in client.list_buckets().get("Buckets", ())]
        except FAILURES:
            return " Check its name and VIEWFINDER_S3_ENDPOINT_URL."  # the credentials may not allow listing buckets
        if not names:
            return " The credentials own no bucket there; check VIEWFINDER_S3_ENDPOINT_URL."
        near = difflib.get_close_matches(wanted, names, n=10, cutoff=0.0)
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        return f" Existing buckets: {', '.join(map(repr, near))}{more}."


@functools.cache
def _service_descriptions() -> Any:
    """Return botocore's service descriptions, cached: reading them took 115 of the 130 ms of CPU of two clients."""
    return botocore.session.get_session().get_component("data_loader")


def _session() -> botocore.session.Session:
    session = botocore.session.get_session()
    session.register_component("data_loader", _service_descriptions())
    return session


def _current_credentials(session: botocore.session.Session) -> object:
    """Return the credentials that boto3's chain finds now, for comparison, or None."""
    try:
        found = session.get_credentials()
        return None if found is None else found.get_frozen_credentials()
    except BotoCoreError:
        return None


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


def _unquoted(etag: str) -> str:
    return etag.strip('"')  # endpoints differ in quoting it in listings


def _is_marker(entry: Any) -> bool:
    return bool(entry["Size"] == 0 and entry["Key"].endswith("/"))


def _info(bucket: str, entry: Any) -> ObjectInfo:
    key, modified = entry["Key"], str(entry.get("LastModified", ""))
    modified = f"{modified[:19]}Z" if modified else ""  # 2026-11-21T06:59:54.733Z: S3 writes UTC
    return ObjectInfo(f"s3://{bucket}/{key}", bucket, key, entry["Size"], _unquoted(entry.get("ETag", "")), modified)


def _iso_of_header(text: str) -> str:
    try:
        return parsedate_to_datetime(text).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return ""
