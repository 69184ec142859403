"""One request to the search service: attempts, retries and errors, without I/O."""

import logging
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from viewfinder._version import __version__
from viewfinder.addresses import is_loopback
from viewfinder.backoff import Backoff
from viewfinder.client.results import (
    ErrorResponse,
)
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError
from viewfinder.settings import DEFAULT_SERVER
from viewfinder.tracing import current_traceparent

logger = logging.getLogger(__name__)

T = TypeVar("T")

# HTTP statuses worth retrying: the service is overloaded or has no index yet, or its proxy has no replica right now.
_RETRYABLE = frozenset({429, 502, 503, 504})
_MAX_PAUSE_S = 10.0


# A call is a generator: it yields attempts and pauses to the client, which sends answers back.


@dataclass(frozen=True)
class Attempt:
    """One HTTP request to send."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout_s: float

    def request(self) -> dict[str, Any]:
        """The arguments of httpx's `request` and `stream`."""
        return {
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "content": self.content,
            "timeout": self.timeout_s,
            # Of originals, to their bucket (VIEWFINDER_REDIRECT_ORIGINALS); httpx does not send the key there.
            "follow_redirects": self.method == "GET",
        }


@dataclass(frozen=True)
class Pause:
    """A wait before the next attempt."""

    seconds: float


@dataclass(frozen=True)
class Response:
    """A complete HTTP response."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Answer: TypeAlias = Response | httpx.RequestError
Call: TypeAlias = Generator[Attempt | Pause, Answer | None, T]
# Draws the length of a pause between two limits, in seconds.
Draw: TypeAlias = Callable[[float, float], float]


@dataclass(frozen=True)
class Done(Generic[T]):
    """The end of a call."""

    result: T


def advance(call: Call[T], answer: Answer | None) -> Attempt | Pause | Done[T]:
    """Continue a call with the answer to its last attempt, None at its start. Raises the call's errors."""
    try:
        return call.send(answer)
    except StopIteration as end:
        return Done(end.value)


class Requests:
    """Requests to one service, as generators that a client runs."""

    def __init__(
        self, server: str, api_key: str | None, timeout_s: float, retries: int, draw: Draw = random.uniform
    ) -> None:
        if timeout_s <= 0 or retries < 0:
            raise ConfigurationError(f"timeout_s must be above 0 and retries 0 or more, not {timeout_s} and {retries}.")
        self._url, self._public_url = _parse_server(server)
        self._timeout_s = timeout_s
        self._retries = retries
        self._backoff = Backoff(timeout_s, maximum_s=_MAX_PAUSE_S, draw=draw)
        self._headers = {"user-agent": f"viewfinder/{__version__}"}
        if api_key is not None:
            if not (api_key and api_key.isascii() and api_key.isprintable()):
                raise ConfigurationError(
                    "The API key is empty, or has characters that are not allowed in an HTTP header."
                )
            if self._url.startswith("http://") and not is_loopback(self._url):
                logger.warning("The API key is sent to %s unencrypted; use https.", self._public_url)
            self._headers["authorization"] = f"Bearer {api_key}"

    def request(
        self,
        kind: TypeAdapter[T],
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        retries: int | None = None,
    ) -> Call[T]:
        """Send one request and return its answer, of this type."""
        answer = yield from self.send(method, path, content, retries=retries)
        try:
            return kind.validate_json(answer.content)
        except ValidationError as error:
            raise ServiceError(
                "no_viewfinder",
                f"{self._public_url}{path.partition('?')[0]} is not a viewfinder service of this version.",
                "Check the address.",
                answer.headers.get("x-request-id", ""),
            ) from error

    def send(
        self, method: str, path: str, content: bytes | None = None, *, retries: int | None = None
    ) -> Call[Response]:
        """Send one request, with retries, and return the response with status 200.

        Every request is safe to repeat, even if the answer to a successful one is lost: POSTs only read, or index what
        is unchanged the second time, and DELETE is idempotent.
        """
        retries = self._retries if retries is None else retries
        request_id = uuid.uuid4().hex  # the same for all attempts, so that the service's log shows them as one call
        headers = {**self._headers, "x-request-id": request_id}
        if content is not None:
            headers["content-type"] = "application/json"
        if (traceparent := current_traceparent()) is not None:
            headers["traceparent"] = traceparent
        deadline = time.monotonic() + self._timeout_s
        attempts = 0
        while True:
            attempts += 1
            remaining_s = max(deadline - time.monotonic(), 0.001)
            answer = yield Attempt(method, self._url + path, headers, content, remaining_s)
            assert answer is not None
            if isinstance(answer, Response) and answer.status == 200:
                return answer
            error = self._error(answer, attempts, request_id)
            asked_s = _retry_after_s(answer.headers.get("retry-after", "")) if isinstance(answer, Response) else 0.0
            pause_s = self._backoff.pause_s(attempts, asked_s)
            too_late = time.monotonic() + pause_s >= deadline
            if not isinstance(error, ServiceUnavailableError) or attempts > retries or too_late:
                raise error from (answer if isinstance(answer, httpx.RequestError) else None)
            yield Pause(pause_s)

    def _error(self, answer: Answer, attempts: int, request_id: str) -> ServiceError:
        tried = f", tried {attempts} times" if attempts > 1 else ""
        if isinstance(answer, httpx.TimeoutException):
            message = f"The service at {self._public_url} did not answer within {self._timeout_s:g} s{tried}."
            return ServiceUnavailableError(
                "timeout", message, "It may be overloaded; try again, or allow more time.", request_id
            )
        if isinstance(answer, httpx.RequestError):
            reason = str(answer) or type(answer).__name__
            return ServiceUnavailableError(
                "unreachable",
                f"The service at {self._public_url} cannot be reached{tried}: {reason}.",
                "Start it with 'viewfinder serve', or use another address.",
            )
        kind = ServiceUnavailableError if answer.status in _RETRYABLE else ServiceError
        try:
            detail = _ERROR.validate_json(answer.content).error
        except ValidationError:
            # From a proxy in front of the service, or from another program. Ray Serve's proxy answers 500 in place of
            # its own 502, 503 and 504.
            kind = ServiceUnavailableError if answer.status == 500 else kind
            message = f"{self._public_url} answered with status {answer.status}{tried}."
            hint = "Check the address." if answer.status < 500 else "Try again shortly."
            return kind(f"http_{answer.status}", message, hint, request_id, answer.status)
        message = detail.message if attempts == 1 else f"{detail.message} (Tried {attempts} times.)"
        return kind(detail.code, message, detail.hint, detail.request_id, answer.status)


_ERROR = TypeAdapter(ErrorResponse)


def _parse_server(server: str) -> tuple[str, str]:
    """The address for requests, and the address without user and password for messages."""
    try:
        url = httpx.URL(server.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigurationError(
            f"The server {server!r} is not an address ({error}); write {DEFAULT_SERVER}."
        ) from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(f"The server must be an address like {DEFAULT_SERVER}, not {server!r}.")
    return str(url).rstrip("/"), str(url.copy_with(username=None, password=None)).rstrip("/")


def _retry_after_s(text: str) -> float:
    if text.isdecimal():
        return float(text)
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # missing, or neither seconds nor a date with a time zone
        return 0.0
