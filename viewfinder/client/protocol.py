"""The protocol of the search service: requests, answers, errors and retries, without I/O."""

import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

import httpx
from pydantic import TypeAdapter, ValidationError

from viewfinder._version import __version__
from viewfinder.addresses import is_loopback
from viewfinder.backoff import Backoff
from viewfinder.client.requests import (
    MAX_BATCH,
    ImageInput,
    NewImage,
    Part,
    SearchRequest,
    batch_share,
    image_base64,
    image_id,
    image_names,
    image_uri,
    new_image_body,
    rank_body,
    search_body,
    spelled_names,
)
from viewfinder.client.results import (
    Embeddings,
    ErrorResponse,
    Facets,
    FailedSearch,
    Image,
    IndexedImage,
    IndexedImages,
    IndexStates,
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
from viewfinder.errors import ConfigurationError, ServiceError, ServiceUnavailableError, all_results
from viewfinder.settings import DEFAULT_SERVER
from viewfinder.sources.uris import spellings
from viewfinder.tracing import current_traceparent

logger = logging.getLogger(__name__)

# Maximum size of the texts and images in one request, in bytes.
_MAX_BATCH_BYTES = 8 * 1024**2
_TAKEDOWNS_PER_PAGE = 1000

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


class Calls:
    """The calls of both clients, as generators that the client runs."""

    def __init__(
        self,
        server: str,
        api_key: str | None,
        timeout_s: float,
        retries: int,
        draw: Draw = random.uniform,
        *,
        index: str | None = None,
    ) -> None:
        if timeout_s <= 0 or retries < 0:
            raise ConfigurationError(f"timeout_s must be above 0 and retries 0 or more, not {timeout_s} and {retries}.")
        self._url, self._public_url = _parse_server(server)
        self._index = index
        self._given = {} if index is None else {"index": index}  # in bodies
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

    # All are generators, so that a wrong argument raises when the client runs the call.

    def search(self, request: SearchRequest) -> Call[SearchResult]:
        request = self._of_index(request)
        ids = yield from self._ids([request])
        content = _json_bytes(search_body(request, ids))
        with _named_as_given(_names([request], ids)):
            return (yield from self._request(_SEARCH_RESULT, "POST", "/v1/search", content))

    def search_batch(self, requests: Iterable[SearchRequest]) -> Call[list[SearchResult]]:
        answers: list[SearchResult | ServiceError] = []
        requests = [self._of_index(each) for each in requests]
        ids = yield from self._ids(requests)
        names = _names(requests, ids)
        bodies = [search_body(request, ids) for request in requests]
        for content in _json_batches("searches", ((body, batch_share(body)) for body in bodies)):
            answer = yield from self._request(_SEARCH_RESULTS, "POST", "/v1/search/batch", content)
            for each in answer.results:
                answers.append(each if isinstance(each, SearchResult) else _as_given(_search_error(each), names))
        return all_results(answers)

    def _of_index(self, request: SearchRequest) -> SearchRequest:
        return request if request.get("index") is not None else {**request, "index": self._index}

    def _ids(self, requests: Iterable[SearchRequest]) -> Call[dict[str, str]]:
        """The ids of the images that the index has, by the names that can be spelled in several ways."""
        found: dict[str, str] = {}
        indexes = {name: request.get("index") for request in requests for name in spelled_names(request)}
        for name, index in indexes.items():
            try:
                found[name] = (yield from self.image(name, index)).id
            except ServiceError as error:
                if error.status != 404:
                    raise
        return found

    def embed(self, texts: Iterable[str], images: Iterable[ImageInput]) -> Call[Embeddings]:
        joined: Embeddings | None = None
        encoded = map(image_base64, images)
        for content in chain(
            _json_batches("texts", _one_each(texts), self._given),
            _json_batches("images", _one_each(encoded), self._given),
        ):
            part = yield from self._request(_EMBEDDINGS, "POST", "/v1/embed", content)
            joined = part if joined is None else _merge_embeddings(joined, part)
        if joined is None:
            raise ConfigurationError("Nothing to embed: pass texts or images.")
        return joined

    def rank(
        self, query: Mapping[str, Any], texts: Iterable[str] | None, images: Iterable[ImageInput | Part] | None
    ) -> Call[Ranking]:
        body = self._given | rank_body(query, texts, images)
        return (yield from self._request(_RANKING, "POST", "/v1/rank", _json_bytes(body)))

    def image(self, subject: str, index: str | None = None) -> Call[Image]:
        path = _image_path("/v1/images", subject, spelled=True, index=index or self._index)
        with _named_as_given({image_id(subject): subject}):
            return (yield from self._request(_IMAGE, "GET", path))

    def content(self, subject: str, width: int | None) -> Call[bytes]:
        path = _image_path("/v1/images", subject, "/content", spelled=True, width=width, index=self._index)
        with _named_as_given({image_id(subject): subject}):
            answer = yield from self._send("GET", path)
        return answer.content

    def facets(self, field: str, limit: int | None, filter: Mapping[str, Any] | None) -> Call[Facets]:
        given = {"index": self._index, "field": field, "limit": limit, "filter": filter}
        body = {name: value for name, value in given.items() if value is not None}
        return (yield from self._request(_FACETS, "POST", "/v1/facets", _json_bytes(body)))

    def models(self) -> Call[Models]:
        return (yield from self._request(_MODELS, "GET", "/v1/models"))

    def indexes(self) -> Call[IndexStates]:
        return (yield from self._request(_INDEX_STATES, "GET", "/v1/indexes"))

    def index_images(self, images: Iterable[str | NewImage]) -> Call[list[IndexedImage]]:
        found: list[IndexedImage] = []
        for content in _json_batches("images", _one_each(map(new_image_body, images)), self._given):
            answer = yield from self._request(_INDEXED_IMAGES, "POST", "/v1/images", content)
            for warning in answer.warnings:
                logger.warning("%s", warning)
            found += answer.images
        return found

    def take_down(self, subject: str) -> Call[Removal]:
        path = _image_path("/v1/images", subject, index=self._index)
        return (yield from self._request(_REMOVAL, "DELETE", path))

    def restore(self, subject: str) -> Call[Restoration]:
        path = _image_path("/v1/takedowns", subject, index=self._index)
        return (yield from self._request(_RESTORATION, "DELETE", path))

    def takedowns(self) -> Call[list[Takedown]]:
        found: list[Takedown] = []
        while True:
            path = _path("/v1/takedowns", index=self._index, limit=_TAKEDOWNS_PER_PAGE, offset=len(found))
            page = yield from self._request(_TAKEDOWN_PAGE, "GET", path)
            found += page.takedowns
            if not page.more or not page.takedowns:
                return found

    def stats(self) -> Call[Stats]:
        return (yield from self._request(_STATS, "GET", _path("/v1/stats", index=self._index)))

    def has_status(self, path: str, status: str) -> Call[bool]:
        try:
            answer = yield from self._request(_OBJECT, "GET", path, retries=0)
        except ServiceUnavailableError:
            return False
        return answer.get("status") == status

    def _request(
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
                f"{self._public_url}{path.partition('?')[0]} is not a viewfinder service of this version.",
                "Check the address.",
                answer.headers.get("x-request-id", ""),
            ) from error

    def _send(
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


_SEARCH_RESULT = TypeAdapter(SearchResult)
_SEARCH_RESULTS = TypeAdapter(SearchResults)
_EMBEDDINGS = TypeAdapter(Embeddings)
_RANKING = TypeAdapter(Ranking)
_IMAGE = TypeAdapter(Image)
_FACETS = TypeAdapter(Facets)
_MODELS = TypeAdapter(Models)
_INDEX_STATES = TypeAdapter(IndexStates)
_INDEXED_IMAGES = TypeAdapter(IndexedImages)
_REMOVAL = TypeAdapter(Removal)
_RESTORATION = TypeAdapter(Restoration)
_TAKEDOWN_PAGE = TypeAdapter(Takedowns)
_STATS = TypeAdapter(Stats)
_OBJECT = TypeAdapter(dict[str, Any])
_ERROR = TypeAdapter(ErrorResponse)


def _names(requests: Iterable[SearchRequest], ids: Mapping[str, str]) -> dict[str, str]:
    """By id the images that requests name, as their author did."""
    return {ids.get(name) or image_id(name): name for request in requests for name in image_names(request)}


@contextmanager
def _named_as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Name images in errors as the caller did, not by their id."""
    try:
        yield
    except ServiceError as error:
        named = _as_given(error, names)
        if named.message == error.message:
            raise
        raise named from error


def _as_given(error: ServiceError, names: Mapping[str, str]) -> ServiceError:
    message = error.message
    for id_, name in names.items():
        message = message.replace(id_, name)
    return type(error)(error.code, message, error.hint, error.request_id, error.status)


def _search_error(search: FailedSearch) -> ServiceError:
    detail = search.error
    return ServiceError(detail.code, detail.message, detail.hint, detail.request_id, search.status)


def _json_bytes(document: object) -> bytes:
    return json.dumps(document, default=_iso, allow_nan=False).encode()


def _iso(value: object) -> str:
    """Encode dates in filters as ISO 8601."""
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be sent to a service: {value!r}")


def _merge_embeddings(whole: Embeddings, part: Embeddings) -> Embeddings:
    """Merge the answers of two requests."""
    if part.fingerprint != whole.fingerprint:
        raise ServiceUnavailableError(
            "model_changed",
            f"The service changed from model {whole.model!r} to {part.model!r} between two requests of this call.",
            "Embed everything again: vectors of two models cannot be compared.",
        )
    # The service numbers the texts within one request.
    warnings = tuple(f"{warning} (Numbers start after text {len(whole.texts)}.)" for warning in part.warnings)
    return replace(
        whole,
        texts=whole.texts + part.texts,
        images=whole.images + part.images,
        warnings=whole.warnings + warnings,
    )


def _one_each(items: Iterable[T]) -> Iterator[tuple[T, int]]:
    return ((item, 1) for item in items)


def _json_batches(
    name: str, items: Iterable[tuple[object, int]], others: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """Yield JSON objects with the items under `name` and the `others`, each within the limits of one request.

    `items` are pairs of an item and the number of inputs that the service encodes for it.
    """
    batch: list[bytes] = []
    count = size = 0
    for item, inputs in items:
        text = _json_bytes(item)
        if batch and (count + inputs > MAX_BATCH or size + len(text) > _MAX_BATCH_BYTES):
            yield _object(name, batch, others or {})
            batch, count, size = [], 0, 0
        batch.append(text)
        count += inputs
        size += len(text)
    if batch:
        yield _object(name, batch, others or {})


def _object(name: str, items: Iterable[bytes], others: Mapping[str, str]) -> bytes:
    first = b"".join(b"%s: %s, " % (_json_bytes(each), _json_bytes(value)) for each, value in others.items())
    return b'{%s"%s": [%s]}' % (first, name.encode(), b", ".join(items))


def _image_path(route: str, subject: str, suffix: str = "", *, spelled: bool = False, **parameters: Any) -> str:
    """The path of an image and its URI, with `spelled` only if it has several spellings."""
    uri = image_uri(subject)
    if spelled and uri is not None and len(spellings(uri)) == 1:
        uri = None
    return _path(f"{route}/{image_id(subject)}{suffix}", uri=uri, **parameters)


def _path(path: str, **parameters: str | int | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


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
