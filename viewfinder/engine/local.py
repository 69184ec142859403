"""The engine's local mode: index and search in one process, without Ray.

It writes the same points, failures and metadata as the job, so each can continue where the other stopped.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfinder.client.results import SearchResult, Stats
from viewfinder.errors import ObjectError, SourceError, all_results
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.report import Summary
from viewfinder.indexing.run import index
from viewfinder.models.registry import find
from viewfinder.query.local import LocalSearch
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess, ObjectInfo
from viewfinder.sources.captions import Captions
from viewfinder.sources.manifest import Manifest, manifest_of, write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, composed, display_key, file_path
from viewfinder.store import Failure, Store, StoreAddress, connect, open_shared


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """The result of `index_directory` or `index_images`: listed = unchanged + indexed + skipped + failed.

    `skips` counts objects that stay out of the index by reason: not_an_image, taken_down, ... `failures` are the images
    that could not be indexed, with reasons. `unmatched` are the keys of `descriptions` that do not belong to any image.
    """

    listed: int
    unchanged: int
    skips: Mapping[str, int]
    indexed: int
    failures: tuple[Failure, ...]
    unmatched: tuple[str, ...]
    collection: str

    @property
    def skipped(self) -> int:
        return sum(self.skips.values())

    @property
    def failed(self) -> int:
        return len(self.failures)


class LocalIndex:
    """One index of a store that this process accesses directly; create it with `LocalIndex.open`."""

    def __init__(self, settings: Settings, model_name: str, store: Store, *, follow: bool) -> None:
        self._settings = settings
        self._model_name = model_name
        self._store = store
        self._executor = InProcessExecutor()
        self._search = LocalSearch(
            store,
            settings,
            lambda checkpoint: self._executor.encoder(checkpoint, settings),
            model_name=None if follow else model_name,
        )

    @classmethod
    def open(cls, settings: Settings, model_name: str | None) -> "LocalIndex":
        """Open the store. The model is loaded, and downloaded if necessary, on first use."""
        address = StoreAddress.of(settings)
        if model_name is not None:
            model_name = find(model_name).name  # reports a misspelled name before the store is opened
        store = open_shared(address) if address.url is None else connect(address)
        try:
            live = store.collections.live(settings.index)
            name = model_name or (live.metadata.model_name if live else settings.model)
            return cls(settings, name, store, follow=model_name is None)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        self._search.close()
        self._executor.close()
        self._store.close()

    def search(self, request: Mapping[str, Any]) -> SearchResult:
        return self._search.search(request)

    def search_batch(self, requests: Iterable[Mapping[str, Any]]) -> list[SearchResult]:
        return all_results(self._search.search_batch(requests))

    def stats(self) -> Stats:
        return self._search.stats()

    def index_directory(self, path: str | Path, descriptions: Mapping[str, str]) -> IndexResult:
        source = canonical_uri(str(path))
        with Objects(self._access) as objects:
            objects.check(source)

            def listing(directory: Path, captions: Captions) -> Manifest:
                return write_manifest([source], directory, objects, captions=captions)

            return self._index(listing, descriptions, base=source)

    def index_images(self, paths: Sequence[str | Path], descriptions: Mapping[str, str]) -> IndexResult:
        if not paths:
            raise SourceError("No images to index: the list of paths is empty.")
        with Objects(self._access) as objects:
            infos = [_stat(objects, uri) for uri in dict.fromkeys(canonical_uri(str(path)) for path in paths)]

            def listing(directory: Path, captions: Captions) -> Manifest:
                return manifest_of(infos, directory, captions=captions)

            by_name = _unique_names(info.uri for info in infos)
            spelled = {by_name.get(composed(str(key)), key): text for key, text in descriptions.items()}
            return self._index(listing, spelled, base=canonical_uri("."))

    def _index(
        self, listing: Callable[[Path, Captions], Manifest], descriptions: Mapping[str, str], *, base: str
    ) -> IndexResult:
        with Captions.given(descriptions, base) as captions:
            summary = index(
                IndexOptions(sources=(), model=self._model_name),
                self._settings,
                self._store,
                self._executor,
                access=self._access,
                listing=lambda options, directory: listing(directory, captions),
            )
            unmatched = tuple(captions.unmatched_keys())
        assert isinstance(summary, Summary)
        counts = summary.counts
        control = self._store.control(self._settings.index)
        return IndexResult(
            listed=counts["listed"],
            unchanged=counts["unchanged"],
            skips=summary.skipped,
            indexed=counts["indexed"],
            failures=tuple(control.failures_of_run(summary.run_id)) if counts["failed"] else (),
            unmatched=unmatched,
            collection=summary.collection,
        )

    @functools.cached_property
    def _access(self) -> ObjectAccess:
        return ObjectAccess.of(self._settings)


def _stat(objects: Objects, uri: str) -> ObjectInfo:
    try:
        return objects.stat(uri)
    except ObjectError as error:
        raise SourceError(f"{error.message} Nothing was indexed.") from error


def _unique_names(uris: Iterable[str]) -> dict[str, str]:
    """URIs by the last part of their path, for those whose last part is unique."""
    named: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        path = display_key(file_path(uri)) if uri.startswith("file://") else uri
        named[composed(path.rpartition("/")[2])].append(uri)
    return {name: found[0] for name, found in named.items() if len(found) == 1}
