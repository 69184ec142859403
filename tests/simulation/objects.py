"""The simulated object store: a boto3 client over a dictionary, behind the real `S3Objects`."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from botocore.exceptions import ClientError, ConnectionClosedError

from tests.simulation.scheduler import Scheduler
from viewfinder.backoff import Backoff
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.s3_connection import S3Connection

PAGE = 3
# Forms of the ETag that endpoints give, in listings and with objects, by the MD5 digest of the content.
ETAGS: dict[str, Callable[[str], tuple[str, str]]] = {
    "digest": lambda digest: (f'"{digest}"', f'"{digest}"'),
    "multipart": lambda digest: (f'"{digest}-2"', f'"{digest}-2"'),
    "weak": lambda digest: (f'"{digest[:6]}"', f'W/"{digest[:6]}"'),
    "disagreeing": lambda digest: (f'"{digest[:6]}"', f'"{digest[6:12]}"'),
    "missing": lambda digest: ("", ""),
    "not listed": lambda digest: ("", f'"{digest}"'),
    "constant": lambda digest: ('"0"', '"0"'),
}
PHOTOS = "s3://photos/"
# Faults by the operations that they can strike.
FAULTS = {
    "slow_down": ("get", "head", "list", "put"),
    "internal_error": ("get", "head", "list", "put"),
    "closed": ("get", "head", "list", "put"),
    "short_body": ("get",),
    "repeated_token": ("list",),
}

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class StoredObject:
    """One object as it is now."""

    content: bytes
    modified: datetime
    archived: bool = False

    @property
    def number(self) -> int:
        return int(self.content.split()[1])

    @property
    def digest(self) -> str:
        return hashlib.md5(self.content, usedforsecurity=False).hexdigest()


@dataclass
class Bucket:
    """All objects by URI. `touched` is the last step at which a photo was changed in any way.

    `etags` is a key of `ETAGS`; access is denied to the URIs that begin with one of `denied`.
    """

    scheduler: Scheduler
    objects: dict[str, StoredObject] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)
    etags: str = "digest"
    denied: set[str] = field(default_factory=set)
    _modified: dict[str, datetime] = field(default_factory=dict)

    def put(self, uri: str, content: bytes) -> None:
        # Two writes within a second have the same time: without an ETag, no run could see the second one.
        earliest = self._modified.get(uri, self.scheduler.time - _SECOND) + _SECOND
        self._modified[uri] = max(self.scheduler.time, earliest)
        self.objects[uri] = StoredObject(content, self._modified[uri])
        self.touch(uri)

    def deny(self, prefix: str, denied: bool) -> None:
        (self.denied.add if denied else self.denied.discard)(prefix)
        for uri in [uri for uri in self.objects if uri.startswith(prefix)]:
            self.touch(uri)

    def is_denied(self, uri: str) -> bool:
        return any(uri.startswith(prefix) for prefix in self.denied)

    def delete(self, uri: str) -> None:
        if self.objects.pop(uri, None):
            self.touch(uri)

    def archive(self, uri: str, archived: bool) -> None:
        if uri in self.objects:
            self.objects[uri] = replace(self.objects[uri], archived=archived)
            self.touch(uri)

    def touch(self, uri: str) -> None:
        self.touched[uri] = self.scheduler.steps


class SimulatedConnection(S3Connection):
    """A connection whose client is simulated, and so are its clock and pauses."""

    def __init__(self, bucket: Bucket, access: ObjectAccess) -> None:
        time = bucket.scheduler
        draw = lambda low, high: high  # noqa: E731
        super().__init__(
            access, Backoff(access.retry_s, first_s=0.2, clock=time.monotonic, sleep=time.sleep, draw=draw)
        )
        self._bucket = bucket

    def connect(self, *, check: bool = False) -> Any:
        return _Client(self._bucket, attempts=2 if check else 1)


class _Client:
    """The methods of boto3's S3 client that viewfinder calls."""

    def __init__(self, bucket: Bucket, attempts: int) -> None:
        self._bucket = bucket
        self._attempts = attempts
        self._objects = bucket.objects

    def get_object(self, *, Bucket: str, Key: str, **options: Any) -> dict[str, Any]:
        fault = self._step("get")
        uri, task = f"s3://{Bucket}/{Key}", self._bucket.scheduler.task
        if uri.startswith(PHOTOS) and task is not None:
            task.seen.setdefault("gets", []).append(uri)
        stored = self._find(uri)
        if self._bucket.is_denied(uri):
            raise _error("AccessDenied", 403, "get")
        if stored.archived:
            raise _error("InvalidObjectState", 403, "get")
        body = stored.content
        if "Range" in options:
            first, last = options["Range"].removeprefix("bytes=").split("-")
            body = body[int(first) : int(last) + 1 if last else None]
        sent = body[: len(body) // 2] if fault == "short_body" else body
        if fault != "short_body" and task is not None and not uri.startswith(PHOTOS):
            task.seen.setdefault("files", {})[uri] = stored.content
        return self._headers(stored) | {"ContentLength": len(body), "Body": _Body(sent, len(body))}

    def head_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        self._step("head")
        uri = f"s3://{Bucket}/{Key}"
        stored = self._find(uri, "404")
        if self._bucket.is_denied(uri):
            raise _error("403", 403, "head")
        return self._headers(stored)

    def put_object(self, *, Bucket: str, Key: str, Body: BinaryIO, **_: Any) -> None:
        self._step("put")
        self._objects[f"s3://{Bucket}/{Key}"] = StoredObject(Body.read(), self._bucket.scheduler.time)

    def list_objects_v2(self, *, Bucket: str, Prefix: str = "", **options: Any) -> dict[str, Any]:
        fault = self._step("list")
        begin = options.get("ContinuationToken") or options.get("StartAfter") or ""
        keys = sorted(uri.removeprefix(f"s3://{Bucket}/") for uri in self._objects if uri.startswith(f"s3://{Bucket}/"))
        keys = [key for key in keys if key.startswith(Prefix) and key > begin]
        page = keys[: min(PAGE, options.get("MaxKeys", PAGE))]
        entries = [self._entry(Bucket, key) for key in page]
        answer: dict[str, Any] = {"Contents": entries, "IsTruncated": len(page) < len(keys)}
        if answer["IsTruncated"]:
            # The token is the last key; a faulty server gives the same one again and again.
            answer["NextContinuationToken"] = begin if fault == "repeated_token" and begin else page[-1]
        return answer

    def list_buckets(self) -> dict[str, Any]:
        return {"Buckets": [{"Name": "photos"}]}

    def close(self) -> None:
        """Nothing to close."""

    def _entry(self, bucket: str, key: str) -> dict[str, Any]:
        uri = f"s3://{bucket}/{key}"
        stored, task = self._objects[uri], self._bucket.scheduler.task
        if task is not None and uri.startswith(PHOTOS):
            task.seen.setdefault("listed", {})[uri] = (stored, self._bucket.scheduler.steps)
            task.seen.setdefault("readable", set()).update(set() if stored.archived else {uri})
        storage = "DEEP_ARCHIVE" if stored.archived else "STANDARD"
        modified = f"{stored.modified:%Y-%m-%dT%H:%M:%S}.000Z"
        return {
            "Key": key,
            "Size": len(stored.content),
            "ETag": ETAGS[self._bucket.etags](stored.digest)[0],
            "LastModified": modified,
            "StorageClass": storage,
        }

    def _headers(self, stored: StoredObject) -> dict[str, Any]:
        storage = {"StorageClass": "DEEP_ARCHIVE"} if stored.archived else {}
        modified = f"{stored.modified:%a, %d %b %Y %H:%M:%S} GMT"
        size = len(stored.content)
        etag = ETAGS[self._bucket.etags](stored.digest)[1]
        return {"ETag": etag, "LastModified": modified, "ContentLength": size, **storage}

    def _find(self, uri: str, code: str = "NoSuchKey") -> StoredObject:
        if uri not in self._objects:
            raise _error(code, 404, "get")
        return self._objects[uri]

    def _step(self, operation: str) -> str | None:
        fault = None
        for _ in range(self._attempts):
            self._bucket.scheduler.step()
            fault = take_fault(self._bucket.scheduler, lambda name: operation in FAULTS.get(name, ()))
            if fault is None:
                break
        if fault == "slow_down":
            raise _error("SlowDown", 503, operation)
        if fault == "internal_error":
            raise _error("InternalError", 500, operation)
        if fault == "closed":
            raise ConnectionClosedError(endpoint_url="http://simulated")
        return fault


def take_fault(scheduler: Scheduler, fits: Callable[[str], bool]) -> str | None:
    """Return the next fault that is due for the running task and fits; a repeated token stays until the run ends."""
    task = scheduler.task
    if task is None:
        return None
    for step, name in sorted(task.faults.items()):
        if step <= task.steps and fits(name):
            if name != "repeated_token":
                del task.faults[step]
            return name
    return None


class _Body(io.BytesIO):
    """The body of a response: `length` bytes are announced, perhaps fewer arrive."""

    def __init__(self, content: bytes, length: int) -> None:
        super().__init__(content)
        self._length = length

    @property
    def length_remaining(self) -> int:
        return self._length - self.tell()


def _error(code: str, status: int, operation: str) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)
