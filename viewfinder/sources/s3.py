"""S3 behind `viewfinder.sources.objects`: reading, listing and checking through boto3, passing failures tried again."""

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
from viewfinder.sources.objects import ObjectAccess, ObjectInfo
from viewfinder.sources.parallel_listing import Page, scan
from viewfinder.sources.s3_errors import (
    FAILURES,
    PASSING_REASONS,
    blames_credentials,
    brief,
    explain,
    is_missing_bucket,
    reason,
)
from viewfinder.sources.uris import s3_parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from urllib3 import HTTPResponse

Result = TypeVar("Result")

# At 128 KiB malloc begins to map memory for each, which costs a page for every packet of a slow line.
CHUNK_BYTES = 120 * 1024
# A hundred reads that share 1 Mbit/s get more each.
LEAST_BYTES_PER_S = 1024
MAXIMUM_PAUSE_S = 10.0
CHECK_TIMEOUT_S = 10.0


class S3Objects:
    """Objects of any S3-compatible endpoint, by `s3://` URI. The client is made at first use and serves all threads."""

    def __init__(self, access: ObjectAccess) -> None:
        self._access = access
        self._backoff = Backoff(access.retry_s, first_s=access.backoff_s, maximum_s=MAXIMUM_PAUSE_S)
        self._lock = threading.Lock()
        self._lazy_client: S3Client | None = None
        self._keys: object = None
        self._endpoint = access.endpoint_url or "S3"

    def read(self, uri: str, max_bytes: int, etag: str = "") -> tuple[bytes, str]:
        bucket, key = s3_parts(uri)

        def attempt() -> tuple[bytes, str]:
            answer: Any = self._client.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:  # urllib3's response; an unread rest costs the connection, not the bytes
                found = _bare(answer.get("ETag", ""))
                if etag and found != etag:
                    raise ObjectError("changed", f"{uri!r} changed since it was listed.")
                size, chunks = 0, []
                if answer.get("ContentLength", 0) <= max_bytes:
                    for chunk in _arriving(body, self._access.read_timeout_s):
                        size += len(chunk)
                        if size > max_bytes:
                            break
                        chunks.append(chunk)
                    else:
                        return b"".join(chunks), found
            size = max(size, answer.get("ContentLength", 0))
            raise ObjectError("too_many_bytes", f"{uri!r} has {size} bytes, more than {max_bytes}.", permanent=True)

        return self._retrying(attempt, uri)

    def open(self, uri: str) -> BinaryIO:
        bucket, key = s3_parts(uri)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it

        def attempt() -> None:
            file.seek(0)
            file.truncate()
            try:
                self._client.download_fileobj(bucket, key, file)
            except RetriesExceededError as error:  # s3transfer hides what happened in it
                raise error.last_exception from error

        try:
            self._retrying(attempt, uri)
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

        self._retrying(attempt, uri, doing="write")

    def stat(self, uri: str) -> ObjectInfo:
        bucket, key = s3_parts(uri)
        if not key:
            raise ObjectError("not_found", f"{uri!r} names a bucket, not an object.")
        answer: Any = self._retrying(lambda: self._client.head_object(Bucket=bucket, Key=key), uri)
        modified = str(answer.get("LastModified", ""))
        return ObjectInfo(
            uri, bucket, key, answer["ContentLength"], _bare(answer.get("ETag", "")), _iso_of_header(modified)
        )

    def list(self, source: str, *, ordered: bool = True) -> Iterator[ObjectInfo]:
        bucket, key = s3_parts(source)
        itself = self._itself(source)
        if itself is not None:
            yield itself
        prefix = _below(key)
        # Directory buckets keep no order, so their listing cannot be cut into ranges.
        if ordered or bucket.endswith("--x-s3") or self._access.threads == 1:
            for page in self.pages(bucket, prefix):
                yield from page.objects
        else:
            list_pages = lambda below, after, shallow: self.pages(bucket, below, after=after, shallow=shallow)  # noqa: E731
            for objects in scan(list_pages, prefix, threads=self._access.threads):
                yield from objects

    def pages(self, bucket: str, prefix: str, *, after: str = "", shallow: bool = False) -> Iterator[Page]:
        """The keys that begin with `prefix` and come after `after`, a request at a time, in order of their UTF-8.

        `shallow` stops at the next `/`: what lies deeper shows as prefixes. Raises `SourceError`, `ViewfinderError`.
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
                    f"{self._where()} cut the listing of 's3://{bucket}/{prefix}' short without saying how to go on. "
                    "Nothing was indexed from it; does the endpoint speak ListObjectsV2?"
                )
            yield Page(objects, prefixes, more)
            if not more:
                return
            request.pop("StartAfter", None)
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def check(self, source: str) -> None:
        bucket, key = s3_parts(source)
        with closing(self._connect(check=True)) as client:
            try:
                found = client.list_objects_v2(Bucket=bucket, Prefix=_below(key), MaxKeys=10).get("Contents", ())
                if not all(_is_marker(entry) for entry in found):
                    return
                near = self._near(client, bucket, key)
            except FAILURES as error:
                raise SourceError(self._explain(error, bucket, client)) from error
        if self._itself(source) is not None:
            return
        if not key:
            raise SourceError(f"The bucket {bucket!r} at {self._where()} is empty.")
        hint = f" Near it: {', '.join(map(repr, near))}." if near else ""
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
        """A client that tries once, since `_retrying` covers the body too, which botocore's own retries do not."""
        access = self._access
        try:
            core = _session()
            # Parsing a page's 1,000 dates took 32 of its 49 ms of CPU; S3 already writes them as we want them.
            # Credentials that pass through the same session may come as text: botocore parses those itself.
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            session = boto3.Session(botocore_session=core)
            options: dict[str, Any] = {
                "connect_timeout": access.connect_timeout_s,
                "read_timeout": min(access.read_timeout_s, CHECK_TIMEOUT_S) if check else access.read_timeout_s,
                "max_pool_connections": max(access.threads, 10),
                "retries": {"mode": "standard", "total_max_attempts": 2 if check else 1},
                # The newer checksums trip other makers' endpoints; the length is verified, and TLS keeps the content.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
            if access.anonymous:
                options["signature_version"] = UNSIGNED
            style = (core.get_scoped_config().get("s3") or {}).get("addressing_style")
            client = session.client("s3", endpoint_url=access.endpoint_url, config=Config(**options))
            if style is None and not str(client.meta.endpoint_url).endswith((".amazonaws.com", ".amazonaws.com.cn")):
                # bucket.localhost:9000 seldom resolves. The endpoint may also come from AWS_ENDPOINT_URL or a profile.
                client.close()
                path_style = Config(**options, s3={"addressing_style": "path"})
                client = session.client("s3", endpoint_url=access.endpoint_url, config=path_style)
        except ProfileNotFound as error:
            known = ", ".join(map(repr, botocore.session.Session().available_profiles)) or "none"
            raise SourceError(f"{error}. Profiles there are: {known}. Check AWS_PROFILE.") from error
        except (BotoCoreError, ValueError) as error:
            raise SourceError(f"Cannot set up the access to S3 at {self._where()}: {error}") from error
        self._endpoint = str(client.meta.endpoint_url)
        if not check and not access.anonymous:
            self._keys = _keys(core)
        return client

    def _retrying(self, attempt: Callable[[], Result], uri: str, doing: str = "read") -> Result:
        """Run `attempt` until it succeeds, fails for good, or `retry_s` is over; raises `ObjectError`."""
        backoff = self._backoff
        started, attempts, renewed = backoff.clock(), 0, False
        while True:
            attempts += 1
            client = self._client
            try:
                return attempt()
            except FAILURES as error:
                if not renewed and blames_credentials(error) and self._renew(client):
                    renewed = True
                    continue
                why = reason(error)
                pause_s = backoff.pause_s(attempts, None)
                # A hanging read may have used up the deadline alone: a second attempt is always made.
                late = attempts > 1 and backoff.clock() - started + pause_s > backoff.deadline_s
                if why not in PASSING_REASONS or late:
                    after = f" after {attempts} attempts" if attempts > 1 else ""
                    raise ObjectError(
                        why, f"Could not {doing} {uri!r}{after}: {brief(error, self._where())}"
                    ) from error
            backoff.sleep(pause_s)

    def _renew(self, refused: "S3Client") -> bool:
        """Let go of a client whose credentials were refused, if the chain has others by now.

        A client reads keys from files once; a job that runs for days outlives them where they are rotated.
        """
        if self._access.anonymous:
            return False
        with self._lock:
            if self._lazy_client is refused:
                if (keys := _keys(_session())) is None or keys == self._keys:
                    return False
                self._lazy_client = None  # not closed: other threads may still be reading with it
            return True

    def _listing(self, request: dict[str, Any]) -> Any:
        try:
            return self._retrying(lambda: self._client.list_objects_v2(**request), f"s3://{request['Bucket']}")
        except ObjectError as error:
            cause = error.__cause__
            assert isinstance(cause, FAILURES)
            kind = ViewfinderError if error.reason in PASSING_REASONS else SourceError
            raise kind(self._explain(cause, request["Bucket"], self._client)) from cause

    def _explain(self, error: Exception, bucket: str, client: "S3Client") -> str:
        text = explain(error, bucket, self._where(), anonymous=self._access.anonymous)
        return text + self._buckets(client, bucket) if is_missing_bucket(error) else text

    def _itself(self, source: str) -> ObjectInfo | None:
        key = s3_parts(source)[1]
        if not key or key.endswith("/"):
            return None
        try:
            return self.stat(source)
        except ObjectError as error:
            # Whoever may read `p/*` only is denied `p`: then there is no such object for them.
            if error.reason in ("not_found", "access_denied", "refused"):
                return None
            raise ViewfinderError(error.message) from error

    def _near(self, client: "S3Client", bucket: str, key: str) -> Sequence[str]:
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
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "S3"  # never a password

    def _buckets(self, client: "S3Client", wanted: str) -> str:
        try:
            names = [entry["Name"] for entry in client.list_buckets().get("Buckets", ())]
        except FAILURES:
            return " Check its name and VIEWFINDER_S3_ENDPOINT_URL."  # these credentials may not list buckets
        if not names:
            return " These credentials own none there; check VIEWFINDER_S3_ENDPOINT_URL."
        near = difflib.get_close_matches(wanted, names, n=10, cutoff=0.0)
        more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
        return f" Buckets there: {', '.join(map(repr, near))}{more}."


@functools.cache
def _definitions() -> Any:
    """botocore's descriptions of services: reading them took 115 of the 130 ms of CPU that a pair of clients costs."""
    return botocore.session.get_session().get_component("data_loader")


def _session() -> botocore.session.Session:
    session = botocore.session.get_session()
    session.register_component("data_loader", _definitions())
    return session


def _keys(session: botocore.session.Session) -> object:
    """The credentials that the chain finds now, to be compared; None where it finds none."""
    try:
        found = session.get_credentials()
        return None if found is None else found.get_frozen_credentials()
    except BotoCoreError:
        return None


def _arriving(body: "HTTPResponse", patience_s: float) -> Iterator[bytes]:
    """What comes of a body, as it comes, until it has its promised length.

    A socket's time limit holds for each packet: a byte a minute would keep a reader for days.
    """
    since, came = time.monotonic(), 0
    while chunk := body.read1(CHUNK_BYTES):
        yield chunk
        came += len(chunk)
        seconds = time.monotonic() - since
        if seconds >= patience_s:
            if came < LEAST_BYTES_PER_S * seconds and body.length_remaining != 0:
                raise HTTPTimeoutError(f"{came:,} bytes in {seconds:.1f} s, less than {LEAST_BYTES_PER_S:,} a second")
            since, came = time.monotonic(), 0
    if body.length_remaining:
        raise IncompleteReadError(actual_bytes=body.tell(), expected_bytes=body.tell() + body.length_remaining)


def _below(key: str) -> str:
    return key if not key or key.endswith("/") else f"{key}/"


def _bare(etag: str) -> str:
    return etag.strip('"')  # some endpoints quote it in listings, some do not


def _is_marker(entry: Any) -> bool:
    return bool(entry["Size"] == 0 and entry["Key"].endswith("/"))


def _info(bucket: str, entry: Any) -> ObjectInfo:
    key, modified = entry["Key"], str(entry.get("LastModified", ""))
    modified = f"{modified[:19]}Z" if modified else ""  # 2026-11-21T06:59:54.733Z: S3 writes UTC
    return ObjectInfo(f"s3://{bucket}/{key}", bucket, key, entry["Size"], _bare(entry.get("ETag", "")), modified)


def _iso_of_header(text: str) -> str:
    try:
        return parsedate_to_datetime(text).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return ""
