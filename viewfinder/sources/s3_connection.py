"""The connection of a process to an S3 endpoint: the client, its credentials and addressing, and retries."""

import functools
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from viewfinder.addresses import is_loopback
from viewfinder.backoff import Backoff
from viewfinder.errors import ObjectError, SourceError
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.s3_errors import (
    FAILURES,
    RETRYABLE_REASONS,
    forbids_path_style,
    is_bare_refusal,
    is_overload,
    lacks_credentials,
    reason,
    refuses_credentials,
    refuses_key,
    summarize,
)
from viewfinder.sources.uris import s3_parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

MAXIMUM_PAUSE_S = 10.0
CHECK_TIMEOUT_S = 10.0
CHECK_ATTEMPTS = 3
_PAYER_HEADER = "x-amz-request-payer"
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")


class S3Connection:
    """One client, created at first use, that serves all threads. It is replaced when its credentials are refused."""

    def __init__(self, access: ObjectAccess, backoff: Backoff | None = None) -> None:
        self.access = access
        self.payer: Mapping[str, Any] = {"RequestPayer": "requester"} if access.requester_pays else {}
        self._backoff = backoff or Backoff(access.retry_s, first_s=access.backoff_s, maximum_s=MAXIMUM_PAUSE_S)
        self._lock = threading.Lock()
        self._lazy_client: S3Client | None = None
        self._credentials: object = None
        self._endpoint = access.endpoint_url or "S3"
        self._addressing = None if access.addressing == "auto" else access.addressing
        self._may_forbid_path_style = access.addressing == "auto"

    @property
    def client(self) -> "S3Client":
        """The current client."""
        with self._lock:
            if self._lazy_client is None:
                self._lazy_client = self.connect()
            return self._lazy_client

    @property
    def where(self) -> str:
        """The address of the endpoint for messages, without a password."""
        parts = urlsplit(self._endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "S3"

    @property
    def is_aws(self) -> bool:
        """True if the endpoint is AWS's own."""
        _ = self.client  # it knows the endpoint
        return self._endpoint == "S3" or (urlsplit(self._endpoint).hostname or "").endswith(_AWS_HOSTS)

    def close(self) -> None:
        """Close the client; a later call creates another one."""
        with self._lock:
            if self._lazy_client is not None:
                self._lazy_client.close()
                self._lazy_client = None

    def connect(self, *, check: bool = False) -> "S3Client":
        """Return a new client; one to `check` a source has short time limits.

        Raises `SourceError`, or one of `FAILURES` while its credentials cannot be fetched. The client does not retry by
        itself: `retry` covers reading the body too, unlike botocore's own retries.
        """
        access = self.access
        try:
            core = _session()
            # Parsing the 1,000 dates of a page took 32 of its 49 ms of CPU; S3 writes them in the format used here.
            # Expiry dates of credentials in the same session may be text: botocore parses those itself.
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            session = boto3.Session(botocore_session=core)
            options: dict[str, Any] = {
                "connect_timeout": access.connect_timeout_s,
                "read_timeout": min(access.read_timeout_s, CHECK_TIMEOUT_S) if check else access.read_timeout_s,
                # A job in one process reads with this many threads for each core. Connections are made when needed.
                "max_pool_connections": max(access.threads, 10) * (os.cpu_count() or 1),
                "retries": {"mode": "standard", "total_max_attempts": 2 if check else 1},
                # Other vendors' endpoints fail on newer checksums. The length is verified, and TLS protects the rest.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
            if access.anonymous:
                options["signature_version"] = UNSIGNED
            style = self._addressing or (core.get_scoped_config().get("s3") or {}).get("addressing_style")
            options["s3"] = {"addressing_style": style} if style else None
            client = session.client("s3", endpoint_url=access.endpoint_url, config=Config(**options))
            # The endpoint may also come from AWS_ENDPOINT_URL or a profile, so the client tells it.
            endpoint = str(client.meta.endpoint_url)
            changes: dict[str, Any] = {"proxies": {}} if is_loopback(endpoint) else {}
            if style is None and not endpoint.endswith(_AWS_HOSTS):
                changes["s3"] = {"addressing_style": "path"}  # bucket.localhost:9000 rarely resolves
            if changes:
                client.close()
                config = Config(**(options | changes))
                client = session.client("s3", endpoint_url=access.endpoint_url, config=config)
        except ProfileNotFound as error:
            known = ", ".join(map(repr, botocore.session.Session().available_profiles)) or "none"
            raise SourceError(f"{error}. Existing profiles: {known}. Check AWS_PROFILE.") from error
        except (BotoCoreError, ValueError) as error:
            if lacks_credentials(error):
                raise
            raise SourceError(f"Cannot set up access to S3 at {self.where}: {error}") from error
        client.meta.events.register_first(
            "choose-signer.s3.GetObject",
            _signer_of_urls,  # type: ignore[arg-type]  # botocore uses the first handler's result
        )
        client.meta.events.register_last("before-endpoint-resolution.s3", _note_region)
        client.meta.events.register("before-sign.s3.GetObject", _prepare_url)
        self._endpoint = str(client.meta.endpoint_url)
        if not check and not access.anonymous:
            self._credentials = _current_credentials(core)
        return client

    def retry(self, attempt: Callable[[], T], uri: str, doing: str = "read") -> T:
        """Run `attempt` until it succeeds, fails permanently, or `retry_s` has passed; raises `ObjectError`.

        While no credentials can be found, or a key is refused that may be about to be rotated, each attempt looks for
        newer ones: an endpoint of credentials may be slow once, and a file may be replaced after the old key ends.
        """
        backoff = self._backoff
        started, attempts, renewed = backoff.clock(), 0, False
        client: S3Client | None = None
        while True:
            attempts += 1
            try:
                client = self.client
                result = attempt()
            except FAILURES as error:
                if self._use_virtual_hosts(client, error, uri):
                    continue
                if not renewed and self._discard(client, error):
                    renewed = True
                    continue
                why = reason(error)
                pause_s = backoff.pause_s(attempts, None)
                # One hanging read may use up the deadline: a second attempt is always made.
                late = attempts > 1 and backoff.clock() - started + pause_s > backoff.deadline_s
                if late or not (why in RETRYABLE_REASONS or self._may_find_credentials(error)):
                    after = f" after {attempts} attempts" if attempts > 1 else ""
                    text = summarize(error, self.where)
                    raise ObjectError(why, f"Could not {doing} {uri!r}{after}: {text}") from error
                renewed = False
            else:
                self._may_forbid_path_style = False
                return result
            backoff.sleep(pause_s)

    def retry_check(self, check: Callable[["S3Client"], T], uri: str) -> T:
        """Run `check` with a client of its own; an endpoint that does not answer at all is not tried for long.

        Runs it again if the endpoint is overloaded or the addressing is wrong, and a few times if no credentials are
        found. Raises one of `FAILURES`, `SourceError`.
        """
        backoff = self._backoff
        started, attempts = backoff.clock(), 0
        while True:
            attempts += 1
            client: S3Client | None = None
            try:
                client = self.connect(check=True)
                return check(client)
            except FAILURES as error:
                pause_s = backoff.pause_s(attempts, None)
                deadline_s = min(backoff.deadline_s, CHECK_TIMEOUT_S)  # a person may wait
                late = attempts > 1 and backoff.clock() - started + pause_s > deadline_s
                again = (
                    self._use_virtual_hosts(client, error, uri)
                    or is_overload(error)
                    or (lacks_credentials(error) and attempts < CHECK_ATTEMPTS)
                )
                if late or not again:
                    raise
            finally:
                if client is not None:
                    client.close()
            backoff.sleep(pause_s)

    def _may_find_credentials(self, error: Exception) -> bool:
        return not self.access.anonymous and (lacks_credentials(error) or refuses_key(error))

    def _discard(self, used: "S3Client | None", error: Exception) -> bool:
        """Discard a client if boto3's chain may have newer credentials; return True if it has, so that no pause is due.

        A client looks for credentials once, and reads them from files once: a job that runs for days outlives rotated
        ones, and one slow answer of their endpoint would leave a worker without any for good.
        """
        if self.access.anonymous or not (lacks_credentials(error) or refuses_credentials(error)):
            return False
        with self._lock:
            if self._lazy_client is used:
                keys = _current_credentials(_session())
                if keys is None or keys == self._credentials:
                    return False
                self._lazy_client = None  # not closed: other threads may still use it
            return True

    def _use_virtual_hosts(self, client: "S3Client | None", error: Exception, uri: str) -> bool:
        """Put the bucket's name in the host name from now on if the endpoint demands it; return True if this is new."""
        if client is None or not self._may_forbid_path_style:
            return False
        if is_bare_refusal(error):
            self._may_forbid_path_style = False
            try:
                client.list_objects_v2(Bucket=s3_parts(uri)[0], MaxKeys=1, **self.payer)
            except FAILURES as explained:
                error = explained
        if not forbids_path_style(error):
            return False
        with self._lock:
            self._may_forbid_path_style = False
            self._addressing = "virtual"
            self._lazy_client = None
        return True


@functools.cache
def _service_descriptions() -> Any:
    """Return botocore's service descriptions, cached: reading them took 115 of the 130 ms of CPU of two clients."""
    return botocore.session.get_session().get_component("data_loader")


def _session() -> botocore.session.Session:
    session = botocore.session.get_session()
    session.register_component("data_loader", _service_descriptions())
    return session


def _signer_of_urls(signature_version: str, **_: object) -> str | None:
    """Sign URLs with version 4: botocore's choice for old regions is version 2, which many endpoints refuse."""
    return "s3v4-query" if signature_version == "v4-query" else None


def _note_region(builtins: Mapping[str, Any], context: dict[str, Any], **_: object) -> None:
    """Note the region of the bucket, which botocore learns from answers, for `_prepare_url`."""
    context["bucket_region"] = builtins.get("AWS::Region")


def _prepare_url(request: AWSRequest, region_name: str, **_: object) -> None:
    """Sign a URL for the region of the bucket, and with the consent to pay in its query.

    botocore takes the region of the client, and puts the consent into a header, which nobody sends who follows the URL.
    """
    if not request.context.get("is_presign_request"):
        return
    region = request.context.get("bucket_region")
    if region not in (None, region_name, "aws-global"):
        request.context.setdefault("signing", {}).setdefault("region", region)
    if (payer := request.headers.get(_PAYER_HEADER)) is not None:
        del request.headers[_PAYER_HEADER]
        request.params = {**request.params, _PAYER_HEADER: payer}


def _current_credentials(session: botocore.session.Session) -> object:
    """Return the credentials that boto3's chain finds now, for comparison, or None."""
    try:
        found = session.get_credentials()
        return None if found is None else found.get_frozen_credentials()
    except (BotoCoreError, ClientError):  # the service that gives out roles may refuse, too
        return None
