"""What is asked of a search service and what its answers mean, without sending anything: see `viewfinder.client`."""

import json
import random
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from viewfinder import __version__
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError

DEFAULT_SERVER = "http://localhost:8000"

Target = Literal["image", "caption", "both"]
T = TypeVar("T")

# Answers that pass: the service full or without an index yet, or the proxy before it between two replicas.
_PASSING = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Hit:
    """One picture that was found; `score` is the cosine of its vector and the query's."""

    id: str
    score: float
    uri: str
    caption: str | None
    width: int | None
    height: int | None
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and what found them. Goes through its hits like a list of them."""

    hits: tuple[Hit, ...]
    model: str
    collection: str
    took_ms: float
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True)
class Stats:
    """What is being searched; `problem` says why it is something other than the live collection, where it is."""

    index: str
    model: str
    fingerprint: str
    dimension: int
    collection: str
    points: int
    state: str
    created_at: str
    problem: str | None = None


class SearchOptions(TypedDict, total=False):
    """What a search may say besides its text; the service's own defaults hold for the rest."""

    target: Target  # compare with the pictures ("image", the default), with their captions, or with both
    limit: int  # largest number of hits, 1 to 200; 10
    offset: int  # hits to leave out, from the best; 0
    filter: Mapping[str, Any] | None  # conditions on the payload: {"width": {"gte": 800}}
    score_threshold: float | None  # leave out hits whose cosine is lower; not with target "both"


# What passes between a call and the client that carries it out: attempts and pauses out, answers in.


@dataclass(frozen=True)
class Attempt:
    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout_s: float

    def request(self) -> dict[str, Any]:
        """What httpx's `request` and `stream` take."""
        return {
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "content": self.content,
            "timeout": self.timeout_s,
        }


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    content: bytes


Answer: TypeAlias = Response | httpx.RequestError
Call: TypeAlias = Generator[Attempt | Pause, Answer | None, T]


class Service:
    """The service's side of both clients: every call is a generator that waits for whoever carries it out."""

    def __init__(self, server: str, api_key: str | None, timeout_s: float, retries: int) -> None:
        if timeout_s <= 0 or retries < 0:
            raise ConfigurationError(f"timeout_s must be above 0 and retries 0 or more, not {timeout_s} and {retries}.")
        self._url, self._shown = _address(server)
        self._timeout_s = timeout_s
        self._retries = retries
        self._headers = {"accept": "application/json", "user-agent": f"viewfinder/{__version__}"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise ConfigurationError("The API key holds characters that no HTTP header can carry.")
            self._headers["authorization"] = f"Bearer {api_key}"

    def search(self, text: str, options: SearchOptions) -> Call[SearchResult]:
        if unknown := options.keys() - SearchOptions.__annotations__.keys():
            known = ", ".join(SearchOptions.__annotations__)
            raise TypeError(f"a search has no option {sorted(unknown)}; it has {known}")
        return self._ask(_SEARCH_RESULT, "POST", "/v1/search", {"text": text, **options})

    def stats(self) -> Call[Stats]:
        return self._ask(_STATS, "GET", "/v1/stats")

    def answers(self, path: str, status: str) -> Call[bool]:
        try:
            answer = yield from self._ask(_STATUS, "GET", path, retries=0)
        except ServiceUnavailableError:
            return False
        return answer.get("status") == status

    def _ask(
        self,
        kind: TypeAdapter[T],
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
    ) -> Call[T]:
        """One call with all its attempts. Every call of this interface only reads, so each may be repeated."""
        retries = self._retries if retries is None else retries
        request_id = uuid.uuid4().hex  # the same for all attempts: the service's log shows them as one call
        headers = {**self._headers, "x-request-id": request_id}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body).encode()
        deadline = time.monotonic() + self._timeout_s
        attempts = 0
        while True:
            attempts += 1
            left_s = max(deadline - time.monotonic(), 0.001)
            answer = yield Attempt(method, self._url + path, headers, content, left_s)
            assert answer is not None
            if isinstance(answer, Response) and answer.status == 200:
                return self._read(kind, answer, path, request_id)
            error = self._error(answer, attempts, request_id)
            pause_s = _pause_s(attempts, answer)
            late = time.monotonic() + pause_s >= deadline
            if not isinstance(error, ServiceUnavailableError) or attempts > retries or late:
                raise error from (answer if isinstance(answer, httpx.RequestError) else None)
            yield Pause(pause_s)

    def _read(self, kind: TypeAdapter[T], answer: Response, path: str, request_id: str) -> T:
        try:
            return kind.validate_json(answer.content)
        except ValidationError as error:
            raise ServiceError(
                "no_viewfinder",
                f"{self._shown}{path} is not answered by a viewfinder service of this version.",
                "Check the address.",
                request_id,
            ) from error

    def _error(self, answer: Answer, attempts: int, request_id: str) -> ServiceError:
        tried = f", tried {attempts} times" if attempts > 1 else ""
        if isinstance(answer, httpx.TimeoutException):
            late = f"The service at {self._shown} did not answer within {self._timeout_s:g} s{tried}."
            return ServiceUnavailableError("timeout", late, "Is it overloaded?", request_id)
        if isinstance(answer, httpx.RequestError):
            why = str(answer) or type(answer).__name__
            return ServiceUnavailableError(
                "unreachable",
                f"The service at {self._shown} cannot be reached{tried}: {why}.",
                "Start it with 'serve run serve.app:build_app', or name another address.",
            )
        kind = ServiceUnavailableError if answer.status in _PASSING else ServiceError
        try:
            said = _ERROR.validate_json(answer.content).error
        except ValidationError:
            # A proxy before the service, or another program altogether.
            message = f"{self._shown} answered with status {answer.status}{tried}."
            hint = "Check the address." if answer.status < 500 else "Try again shortly."
            return kind(f"http_{answer.status}", message, hint, request_id, answer.status)
        message = said.message if attempts == 1 else f"{said.message} (Tried {attempts} times.)"
        return kind(said.code, message, said.hint, said.request_id, answer.status)


@dataclass(frozen=True)
class _Said:
    code: str
    message: str
    hint: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class _Refused:
    error: _Said


# Fields that a newer service adds are passed over.
_SEARCH_RESULT = TypeAdapter(SearchResult)
_STATS = TypeAdapter(Stats)
_STATUS = TypeAdapter(dict[str, Any])
_ERROR = TypeAdapter(_Refused)


def _address(server: str) -> tuple[str, str]:
    """The address to ask, and the one to show: without a password."""
    try:
        url = httpx.URL(server.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"The server {server!r} is no address ({error}); write {DEFAULT_SERVER}.") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(f"The server must be an address like {DEFAULT_SERVER}, not {server!r}.")
    return str(url).rstrip("/"), str(url.copy_with(username=None, password=None)).rstrip("/")


def _pause_s(attempts: int, answer: Answer) -> float:
    """Full jitter, so that clients refused together do not come back together, and no less than what was asked for."""
    ceiling_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempts, 30))
    asked_s = _retry_after_s(answer.headers.get("retry-after", "")) if isinstance(answer, Response) else 0.0
    return max(random.uniform(0.0, ceiling_s), asked_s)


def _retry_after_s(text: str) -> float:
    if text.isdecimal():
        return float(text)
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # absent, or neither seconds nor a date with its zone
        return 0.0
