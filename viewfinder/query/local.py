"""Searches one index in this process, without a service: the same `viewfinder.query` that the service runs."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self, TypeVar

from pydantic import SecretStr

from viewfinder.client.requests import (
    MAX_BATCH,
    batch_share,
    image_id,
    image_names,
    image_uri,
    search_body,
    spelled_names,
)
from viewfinder.client.results import SearchResult, Stats
from viewfinder.errors import CollectionMissingError
from viewfinder.images.decoding import ImageLimits
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.query.body import parse_batch, parse_query
from viewfinder.query.cursor import CursorKeys
from viewfinder.query.errors import QueryError, UnknownImageError
from viewfinder.query.images import QueryImages
from viewfinder.query.query import Query
from viewfinder.query.searcher import Refused, Searcher
from viewfinder.query.vectors import DirectEncoder
from viewfinder.settings import Settings
from viewfinder.store import Collection, Store
from viewfinder.store.collections import check_model
from viewfinder.store.schema import ModelIdentity
from viewfinder.store.takedowns import held_id

T = TypeVar("T")

Load = Callable[[Checkpoint], Encoder]


class LocalSearch:
    """Answers searches from `store`. Models are loaded when a query first needs them, by `load` if given.

    With `model_name` the live collection must have been made by that model; without, each search uses the model of the
    live collection. Close it after use; the store stays open.
    """

    def __init__(
        self, store: Store, settings: Settings, load: Load | None = None, *, model_name: str | None = None
    ) -> None:
        if load is None:
            load = functools.partial(
                Encoder.load,
                device=settings.device,
                precision=settings.precision,
                runtime=settings.runtime,
                export=True,
                towers=["text"],
            )
        limits = ImageLimits.of(settings)
        self._images = QueryImages(
            replace(limits, max_bytes=settings.max_query_image_bytes),
            timeout_s=settings.decode_timeout_s,
            memory_bytes=settings.decode_memory_bytes,
            allow_url=True,  # the caller fetches on its own machine; private addresses are still refused
        )
        self._store, self._index = store, settings.index
        # The caller owns the index, so anyone may make cursors; another process can go on with them.
        keys = CursorKeys.of(settings.cursor_keys or (SecretStr("local"),))
        self._searcher = Searcher(store, _IndexInStore(store, settings.index, load, model_name), self._images, keys)
        # A loop in a thread of its own, since the caller may run in a loop already, as notebooks do.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-search")
        self._runner = asyncio.Runner()
        self._closed = False

    def search(self, request: Mapping[str, Any]) -> SearchResult:
        """The answer to a `SearchRequest`; raises `QueryError`, `FilterError` and the errors of the store."""
        body, names = self._body(request)
        query = self._checked(parse_query(body))
        if isinstance(query, QueryError):
            raise query
        try:
            return self._run(self._searcher.search(query, None))
        except UnknownImageError as error:
            raise UnknownImageError(names.get(error.name, error.name)) from error

    def search_batch(self, requests: Iterable[Mapping[str, Any]]) -> list[SearchResult | Refused]:
        """The answer to each of several requests, or its error; as many as one batch takes are searched together."""
        answers: list[SearchResult | Refused] = []
        batch: list[tuple[dict[str, Any], dict[str, str]]] = []
        share = 0
        for body in [self._body(request) for request in requests]:
            own = batch_share(body[0])
            if batch and share + own > MAX_BATCH:
                answers += self._batch(batch)
                batch, share = [], 0
            batch.append(body)
            share += own
        return answers + (self._batch(batch) if batch else [])

    def _batch(self, bodies: Sequence[tuple[dict[str, Any], dict[str, str]]]) -> list[SearchResult | Refused]:
        queries = [self._checked(each) for each in parse_batch([body for body, _ in bodies])]
        answers = self._searcher.search_many(queries, None)
        return [
            UnknownImageError(names.get(each.name, each.name)) if isinstance(each, UnknownImageError) else each
            for (_, names), each in zip(bodies, self._run(answers), strict=True)
        ]

    def _checked(self, query: Query | QueryError) -> Query | QueryError:
        """The query, or an error if it is for another index."""
        if isinstance(query, QueryError) or query.index in (None, self._index):
            return query
        return QueryError(f"index: this is a search of {self._index!r}, not of {query.index!r}.", "Leave it out.")

    def _body(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The JSON object of a request, with the ids of the images that the index has; and their names in it by id."""
        found: dict[str, str] = {}
        for name in spelled_names(request):
            id_ = image_id(name)
            found[name] = held_id(self._store, self._index, id_, image_uri(name) or "") or id_
        return search_body(request, found), {found.get(name) or image_id(name): name for name in image_names(request)}

    def stats(self) -> Stats:
        return self._run(self._searcher.stats(None))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
        self._images.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            coroutine.close()
            raise RuntimeError("This search is closed.")
        return self._thread.submit(self._runner.run, coroutine).result()


class _LazyCollection(DirectEncoder):
    """The live collection; its encoder is loaded on first use."""

    def __init__(self, collection: Collection, load: Callable[[], Encoder]) -> None:
        super().__init__(load)
        self.collection = collection


class _IndexInStore:
    """Looks up the live collection for every query."""

    def __init__(self, store: Store, index: str, load: Load, model_name: str | None) -> None:
        self.index = index
        self._store = store
        self._load = load
        self._model_name = model_name
        self._checkpoint: Checkpoint | None = None  # of `model_name`
        self._encoder: Encoder | None = None

    def collection(self) -> Collection:
        live = self._store.collections.live(self.index)
        if live is None:
            raise CollectionMissingError(
                f"There is no index {self.index!r} yet in {self._store.address}. Index images first."
            )
        self._check_model(live)
        return live

    async def ready(self) -> _LazyCollection:
        live = self.collection()
        return _LazyCollection(live, lambda: self._encoder_of(live))

    def known(self, name: str) -> Collection | None:
        return None

    def refresh(self) -> None:
        """Nothing to do: `collection` always asks the store."""

    def _check_model(self, live: Collection) -> None:
        """Raise `ModelMismatchError` if the collection was not made by `model_name`."""
        if self._model_name is None:
            return
        if self._checkpoint is None:
            self._checkpoint = locate(self._model_name)
        check_model(live, ModelIdentity.of(self._checkpoint))

    def _encoder_of(self, live: Collection) -> Encoder:
        fingerprint = live.metadata.fingerprint
        if self._encoder is None or self._encoder.fingerprint != fingerprint:
            made_by = live.metadata
            self._encoder = self._load(
                locate(made_by.model_name, expect=fingerprint, revisions=made_by.revisions, exported=True)
            )
        return self._encoder
