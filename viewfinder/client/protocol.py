"""What is asked of a search service and what its answers mean, without sending anything: see `viewfinder.client`."""

import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlencode

import httpx
from pydantic import TypeAdapter, ValidationError

from viewfinder import __version__
from viewfinder.addresses import is_loopback
from viewfinder.backoff import Backoff
from viewfinder.client.requests import Picture, SearchRequest, image_id, picture_base64, search_body
from viewfinder.client.results import (
    Embeddings,
    Facets,
    Image,
    Models,
    Ranking,
    Removal,
    Restoration,
    SearchResult,
    SearchResults,
    Stats,
    Takedown,
    Takedowns,
)
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError

logger = logging.getLogger(__name__)

DEFAULT_SERVER = "http://localhost:8000"

# Most texts and pictures of one request, and most bytes of them.
BATCH = 64
_BATCH_BYTES = 8 * 1024**2
_TAKEDOWNS = 1000

T = TypeVar("T")

# Answers that pass: the service full or without an index yet, or the proxy before it between two replicas.
_PASSING = frozenset({429, 502, 503, 504})
_MAXIMUM_PAUSE_S = 10.0


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
# The random length of a pause, between two limits in seconds.
Draw: TypeAlias = Callable[[float, float], float]


class Service:
    """The service's side of both clients: every call is a generator that waits for whoever carries it out."""

    def __init__(
        self, server: str, api_key: str | None, timeout_s: float, retries: int, draw: Draw = random.uniform
    ) -> None:
        if timeout_s <= 0 or retries < 0:
            raise ConfigurationError(f"timeout_s must be above 0 and retries 0 or more, not {timeout_s} and {retries}.")
        self._url, self._shown = _address(server)
        self._timeout_s = timeout_s
        self._retries = retries
        self._backoff = Backoff(timeout_s, maximum_s=_MAXIMUM_PAUSE_S, draw=draw)
        self._headers = {"user-agent": f"viewfinder/{__version__}"}
        if api_key is not None:
            if not (api_key and api_key.isascii() and api_key.isprintable()):
                raise ConfigurationError("The API key is empty or holds characters that no HTTP header can carry.")
            if _is_open(self._url):
                logger.warning("The API key goes to %s unencrypted; use https.", self._shown)
            self._headers["authorization"] = f"Bearer {api_key}"

    # Generators all, so that what is wrong with a call is told where its answer is waited for.

    def search(self, request: SearchRequest) -> Call[SearchResult]:
        return (yield from self._ask(_SEARCH_RESULT, "POST", "/v1/search", _json(search_body(request))))

    def search_batch(self, requests: Iterable[SearchRequest]) -> Call[list[SearchResult]]:
        results: list[SearchResult] = []
        bodies = map(search_body, requests)
        for content in _batches("searches", ((body, len(body.get("queries", "1"))) for body in bodies)):
            answer = yield from self._ask(_SEARCH_RESULTS, "POST", "/v1/search/batch", content)
            results += answer.results
        return results

    def embed(self, texts: Iterable[str], images: Iterable[Picture]) -> Call[Embeddings]:
        whole: Embeddings | None = None
        pictures = map(picture_base64, images)
        for content in chain(_batches("texts", _singly(texts)), _batches("images", _singly(pictures))):
            part = yield from self._ask(_EMBEDDINGS, "POST", "/v1/embed", content)
            whole = part if whole is None else _joined(whole, part)
        if whole is None:
            raise ConfigurationError("There is nothing to embed: neither texts nor images.")
        return whole

    def rank(
        self,
        image: Picture | None,
        text: str | None,
        images: Iterable[Picture] | None,
        texts: Iterable[str] | None,
    ) -> Call[Ranking]:
        body: dict[str, Any]
        if image is not None and texts is not None and text is None and images is None:
            body = {"image": picture_base64(image), "texts": list(texts)}
        elif text is not None and images is not None and image is None and texts is None:
            body = {"text": text, "images": list(map(picture_base64, images))}
        else:
            raise TypeError("rank takes either image and texts, or text and images")
        return (yield from self._ask(_RANKING, "POST", "/v1/rank", _json(body)))

    def image(self, subject: str) -> Call[Image]:
        return (yield from self._ask(_IMAGE, "GET", f"/v1/images/{image_id(subject)}"))

    def content(self, subject: str, width: int | None) -> Call[bytes]:
        answer = yield from self._send("GET", _path(f"/v1/images/{image_id(subject)}/content", width=width))
        return answer.content

    def facets(self, field: str, limit: int | None, filter: Mapping[str, Any] | None) -> Call[Facets]:
        condition = None if filter is None else _json(filter).decode()
        return (yield from self._ask(_FACETS, "GET", _path("/v1/facets", field=field, limit=limit, filter=condition)))

    def models(self) -> Call[Models]:
        return (yield from self._ask(_MODELS, "GET", "/v1/models"))

    def remove(self, subject: str) -> Call[Removal]:
        return (yield from self._ask(_REMOVAL, "DELETE", f"/v1/images/{image_id(subject)}"))

    def restore(self, subject: str) -> Call[Restoration]:
        return (yield from self._ask(_RESTORATION, "DELETE", f"/v1/takedowns/{image_id(subject)}"))

    def takedowns(self) -> Call[list[Takedown]]:
        found: list[Takedown] = []
        while True:
            path = _path("/v1/takedowns", limit=_TAKEDOWNS, offset=len(found))
            page = yield from self._ask(_TAKEDOWN_PAGE, "GET", path)
            found += page.takedowns
            if not page.more or not page.takedowns:
                return found

    def stats(self) -> Call[Stats]:
        return (yield from self._ask(_STATS, "GET", "/v1/stats"))

    def answers(self, path: str, status: str) -> Call[bool]:
        try:
            answer = yield from self._ask(_OBJECT, "GET", path, retries=0)
        except ServiceUnavailableError:
            return False
        return answer.get("status") == status

    def _ask(
        self,
        kind: TypeAdapter[T],
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        retries: int | None = None,
    ) -> Call[T]:
        answer = yield from self._send(method, path, content, retries=retries)
        try:
            return kind.validate_json(answer.content)
        except ValidationError as error:
            raise ServiceError(
                "no_viewfinder",
                f"{self._shown}{path.partition('?')[0]} is not answered by a viewfinder service of this version.",
                "Check the address.",
                answer.headers.get("x-request-id", ""),
            ) from error

    def _send(
        self, method: str, path: str, content: bytes | None = None, *, retries: int | None = None
    ) -> Call[Response]:
        """One call with all its attempts.

        Each may be repeated, also when the answer to one that was carried out is lost: every POST here only reads, and
        a second DELETE finds done what the first one did.
        """
        retries = self._retries if retries is None else retries
        request_id = uuid.uuid4().hex  # the same for all attempts: the service's log shows them as one call
        headers = {**self._headers, "x-request-id": request_id}
        if content is not None:
            headers["content-type"] = "application/json"
        deadline = time.monotonic() + self._timeout_s
        attempts = 0
        while True:
            attempts += 1
            left_s = max(deadline - time.monotonic(), 0.001)
            answer = yield Attempt(method, self._url + path, headers, content, left_s)
            assert answer is not None
            if isinstance(answer, Response) and answer.status == 200:
                return answer
            error = self._error(answer, attempts, request_id)
            pause_s = self._backoff.pause_s(attempts, _retry_after_s(answer))
            late = time.monotonic() + pause_s >= deadline
            if not isinstance(error, ServiceUnavailableError) or attempts > retries or late:
                raise error from (answer if isinstance(answer, httpx.RequestError) else None)
            yield Pause(pause_s)

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


_SEARCH_RESULT = TypeAdapter(SearchResult)
_SEARCH_RESULTS = TypeAdapter(SearchResults)
_EMBEDDINGS = TypeAdapter(Embeddings)
_RANKING = TypeAdapter(Ranking)
_IMAGE = TypeAdapter(Image)
_FACETS = TypeAdapter(Facets)
_MODELS = TypeAdapter(Models)
_REMOVAL = TypeAdapter(Removal)
_RESTORATION = TypeAdapter(Restoration)
_TAKEDOWN_PAGE = TypeAdapter(Takedowns)
_STATS = TypeAdapter(Stats)
_OBJECT = TypeAdapter(dict[str, Any])
_ERROR = TypeAdapter(_Refused)


def _json(document: object) -> bytes:
    return json.dumps(document, default=_iso, allow_nan=False).encode()


def _iso(value: object) -> str:
    """Dates in filters, as the service takes them."""
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be sent to a service: {value!r}")


def _joined(whole: Embeddings, part: Embeddings) -> Embeddings:
    """The answers of two requests as that of one."""
    if part.fingerprint != whole.fingerprint:
        raise ServiceUnavailableError(
            "model_changed",
            f"The service went from model {whole.model!r} to {part.model!r} between two requests of this call.",
            "Embed all of it again: vectors of two models cannot be compared.",
        )
    # The service counts the texts of its own request.
    warnings = tuple(f"{warning} (Counted from text {len(whole.texts)} on.)" for warning in part.warnings)
    return replace(
        whole,
        texts=whole.texts + part.texts,
        images=whole.images + part.images,
        warnings=whole.warnings + warnings,
    )


def _singly(items: Iterable[T]) -> Iterator[tuple[T, int]]:
    return ((item, 1) for item in items)


def _batches(name: str, items: Iterable[tuple[object, int]]) -> Iterator[bytes]:
    """JSON objects that hold all items under `name`, as many and as large as a service takes at once.

    With each item comes how many things it has to encode.
    """
    some: list[bytes] = []
    things = size = 0
    for item, more in items:
        text = _json(item)
        if some and (things + more > BATCH or size + len(text) > _BATCH_BYTES):
            yield _object(name, some)
            some, things, size = [], 0, 0
        some.append(text)
        things += more
        size += len(text)
    if some:
        yield _object(name, some)


def _object(name: str, items: Iterable[bytes]) -> bytes:
    return b'{"%s": [%s]}' % (name.encode(), b", ".join(items))


def _path(path: str, **parameters: str | int | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _is_open(url: str) -> bool:
    """Return True for an address to which requests travel unencrypted over a network."""
    return url.startswith("http://") and not is_loopback(url)


def _address(server: str) -> tuple[str, str]:
    """The address to ask, and the one to show: without a password."""
    try:
        url = httpx.URL(server.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"The server {server!r} is no address ({error}); write {DEFAULT_SERVER}.") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ConfigurationError(f"The server must be an address like {DEFAULT_SERVER}, not {server!r}.")
    return str(url).rstrip("/"), str(url.copy_with(username=None, password=None)).rstrip("/")


def _retry_after_s(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "") if isinstance(answer, Response) else ""
    if text.isdecimal():
        return float(text)
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # absent, or neither seconds nor a date with its zone
        return 0.0
