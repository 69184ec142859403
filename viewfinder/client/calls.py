"""The calls of both clients: what they send, and what they make of the answers."""

import json
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import TypeAdapter

from viewfinder.client.protocol import Call, Draw, Requests
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
from viewfinder.sources.uris import has_one_spelling

logger = logging.getLogger(__name__)

# Maximum size of the texts and images in one request, in bytes.
_MAX_BATCH_BYTES = 8 * 1024**2
_TAKEDOWNS_PER_PAGE = 1000

T = TypeVar("T")


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
        self._requests = Requests(server, api_key, timeout_s, retries, draw)
        self._index = index
        self._given = {} if index is None else {"index": index}  # in bodies

    # All are generators, so that a wrong argument raises when the client runs the call.

    def search(self, request: SearchRequest) -> Call[SearchResult]:
        request = self._of_index(request)
        ids = yield from self._ids([request])
        content = _json_bytes(search_body(request, ids))
        with _named_as_given(_names([request], ids)):
            return (yield from self._requests.request(_SEARCH_RESULT, "POST", "/v1/search", content))

    def search_batch(self, requests: Iterable[SearchRequest]) -> Call[list[SearchResult]]:
        answers: list[SearchResult | ServiceError] = []
        requests = [self._of_index(each) for each in requests]
        ids = yield from self._ids(requests)
        names = _names(requests, ids)
        bodies = [search_body(request, ids) for request in requests]
        for content in _json_batches("searches", ((body, batch_share(body)) for body in bodies)):
            answer = yield from self._requests.request(_SEARCH_RESULTS, "POST", "/v1/search/batch", content)
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
            part = yield from self._requests.request(_EMBEDDINGS, "POST", "/v1/embed", content)
            joined = part if joined is None else _merge_embeddings(joined, part)
        if joined is None:
            raise ConfigurationError("Nothing to embed: pass texts or images.")
        return joined

    def rank(
        self, query: Mapping[str, Any], texts: Iterable[str] | None, images: Iterable[ImageInput | Part] | None
    ) -> Call[Ranking]:
        body = self._given | rank_body(query, texts, images)
        return (yield from self._requests.request(_RANKING, "POST", "/v1/rank", _json_bytes(body)))

    def image(self, subject: str, index: str | None = None) -> Call[Image]:
        path = _image_path("/v1/images", subject, spelled=True, index=index or self._index)
        with _named_as_given({image_id(subject): subject}):
            return (yield from self._requests.request(_IMAGE, "GET", path))

    def content(self, subject: str, width: int | None) -> Call[bytes]:
        path = _image_path("/v1/images", subject, "/content", spelled=True, width=width, index=self._index)
        with _named_as_given({image_id(subject): subject}):
            answer = yield from self._requests.send("GET", path)
        return answer.content

    def facets(self, field: str, limit: int | None, filter: Mapping[str, Any] | None) -> Call[Facets]:
        given = {"index": self._index, "field": field, "limit": limit, "filter": filter}
        body = {name: value for name, value in given.items() if value is not None}
        return (yield from self._requests.request(_FACETS, "POST", "/v1/facets", _json_bytes(body)))

    def models(self) -> Call[Models]:
        return (yield from self._requests.request(_MODELS, "GET", "/v1/models"))

    def indexes(self) -> Call[IndexStates]:
        return (yield from self._requests.request(_INDEX_STATES, "GET", "/v1/indexes"))

    def index_images(self, images: Iterable[str | NewImage]) -> Call[list[IndexedImage]]:
        found: list[IndexedImage] = []
        for content in _json_batches("images", _one_each(map(new_image_body, images)), self._given):
            answer = yield from self._requests.request(_INDEXED_IMAGES, "POST", "/v1/images", content)
            for warning in answer.warnings:
                logger.warning("%s", warning)
            found += answer.images
        return found

    def take_down(self, subject: str) -> Call[Removal]:
        path = _image_path("/v1/images", subject, index=self._index)
        return (yield from self._requests.request(_REMOVAL, "DELETE", path))

    def restore(self, subject: str) -> Call[Restoration]:
        path = _image_path("/v1/takedowns", subject, index=self._index)
        return (yield from self._requests.request(_RESTORATION, "DELETE", path))

    def takedowns(self) -> Call[list[Takedown]]:
        found: list[Takedown] = []
        while True:
            path = _path("/v1/takedowns", index=self._index, limit=_TAKEDOWNS_PER_PAGE, offset=len(found))
            page = yield from self._requests.request(_TAKEDOWN_PAGE, "GET", path)
            found += page.takedowns
            if not page.more or not page.takedowns:
                return found

    def stats(self) -> Call[Stats]:
        return (yield from self._requests.request(_STATS, "GET", _path("/v1/stats", index=self._index)))

    def has_status(self, path: str, status: str) -> Call[bool]:
        try:
            answer = yield from self._requests.request(_OBJECT, "GET", path, retries=0)
        except ServiceUnavailableError:
            return False
        return answer.get("status") == status


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
    """The path of an image and its URI, with `spelled` only if it may have several spellings."""
    uri = image_uri(subject)
    if spelled and uri is not None and has_one_spelling(uri):
        uri = None
    return _path(f"{route}/{image_id(subject)}{suffix}", uri=uri, **parameters)


def _path(path: str, **parameters: str | int | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
