"""Indexing and searching in one process, without Ray: the engine's local mode.

Points, failures and metadata are those that the job writes, so that either goes on where the other stopped.
"""

import functools
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from viewfinder.client.requests import Picture, picture_bytes
from viewfinder.client.results import Hit, SearchResult, Stats
from viewfinder.errors import CollectionMissingError, ConfigurationError, ImageError, ObjectError, SourceError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.preflight import object_access, open_collection
from viewfinder.indexing.report import Summary
from viewfinder.indexing.run import index
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.models.registry import find
from viewfinder.settings import Settings
from viewfinder.sources.captions import Captions
from viewfinder.sources.manifest import Manifest, manifest_of, write_manifest
from viewfinder.sources.objects import ObjectAccess, ObjectInfo, Objects
from viewfinder.sources.uris import canonical_uri, display_key, file_path
from viewfinder.store import Collection, Failure, Search, Store, StoreAddress, connect, open_local
from viewfinder.store.baselines import share
from viewfinder.store.records import Hit as StoredHit
from viewfinder.store.records import Vectors
from viewfinder.store.schema import VECTOR_NAMES, VectorName

MAX_TOP_K = 200  # as the service has it
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """What one call of `index_directory` or `index_images` did: listed = unchanged + indexed + failed.

    The `taken_down` are included in the unchanged and stay out of the index. `failures` say which images are not in the
    index and why; `unmatched` are the keys of descriptions that belong to none of the images.
    """

    listed: int
    unchanged: int
    taken_down: int
    indexed: int
    failures: tuple[Failure, ...]
    unmatched: tuple[str, ...]
    collection: str

    @property
    def failed(self) -> int:
        return len(self.failures)


class LocalIndex:
    """One index of a store that this process asks directly; made by `LocalIndex.open`."""

    def __init__(self, settings: Settings, model_name: str, store: Store) -> None:
        self._settings = settings
        self._model_name = model_name
        self._store = store
        self._executor = InProcessExecutor()

    @classmethod
    def open(cls, settings: Settings, model_name: str | None) -> "LocalIndex":
        """Open the store; the model is loaded, and where needed fetched, at its first use."""
        address = StoreAddress.of(settings)
        if model_name is not None:
            find(model_name)  # a misspelled name is told before the store is opened
        store = open_local(address) if address.url is None else connect(address)
        try:
            live = store.collections.live(settings.index)
            return cls(settings, model_name or (live.metadata.model_name if live else settings.model), store)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        if "_decoder" in self.__dict__:  # cached, so made
            self._decoder.close()
        self._executor.close()
        self._store.close()

    # -- Searching ----------------------------------------------------------------------------------------------------

    def search_texts(self, texts: Sequence[str], top_k: int, target: VectorName) -> list[SearchResult]:
        if not all(texts):
            raise ConfigurationError("A text to search for is empty.")
        collection = self._searchable(top_k, target)
        results: list[SearchResult] = []
        for start in range(0, len(texts), _BATCH):
            began = time.perf_counter()
            vectors, cuts = self._encoder.encode_texts(list(texts[start : start + _BATCH]))
            found = self._search(collection, vectors, top_k, target, "text", began)
            results += [replace(each, warnings=self._cut(tokens)) for each, tokens in zip(found, cuts, strict=True)]
        return results

    def search_image(self, image: Picture, top_k: int, target: VectorName) -> SearchResult:
        content = picture_bytes(image)
        collection = self._searchable(top_k, target)
        began = time.perf_counter()
        try:
            picture = self._decoder.decode(content)
        except ImageError as error:
            raise ConfigurationError(f"The picture to search for cannot be used: {error.message}") from error
        vectors = self._encoder.encode_images(picture.pixels[None])
        return self._search(collection, vectors, top_k, target, "image", began)[0]

    def stats(self) -> Stats:
        collection = self._live()
        metadata = collection.metadata
        return Stats(
            index=collection.index,
            model=metadata.model_name,
            fingerprint=metadata.fingerprint,
            dimension=metadata.dimension,
            collection=collection.name,
            points=self._store.points.count(collection),
            captions=self._store.points.count(collection, {"has_caption": {"eq": True}}),
            state=metadata.state,
            created_at=metadata.created_at,
            sources=tuple(str(each["source"]) for each in metadata.sources),
            fields=dict(metadata.fields),
            relevance=bool(metadata.baselines),
            last_run=metadata.runs[-1] if metadata.runs else None,
        )

    def _searchable(self, top_k: int, target: str) -> Collection:
        """The collection to search, where the search can be made."""
        if not 1 <= top_k <= MAX_TOP_K:
            raise ConfigurationError(f"top_k must be from 1 to {MAX_TOP_K}, not {top_k}.")
        if target not in VECTOR_NAMES:
            raise ConfigurationError(f"target must be 'image' or 'caption' in local mode, not {target!r}.")
        self._live()
        return self._open()

    def _search(
        self,
        collection: Collection,
        vectors: Vectors,
        top_k: int,
        target: VectorName,
        kind: Literal["text", "image"],
        began: float,
    ) -> list[SearchResult]:
        searches = [Search(vector, using=target, limit=top_k) for vector in vectors]
        found = self._store.search.many(collection, searches)
        took_ms = round((time.perf_counter() - began) * 1000, 2)
        baseline = collection.metadata.baselines.get(f"{kind}_{target}", ())
        return [
            SearchResult(
                hits=tuple(_hit(hit, baseline) for hit in hits),
                model=self._checkpoint.name,
                collection=collection.name,
                took_ms=took_ms,
            )
            for hits in found
        ]

    def _cut(self, tokens: int) -> tuple[str, ...]:
        left_out = f"{tokens} tokens beyond the first {self._encoder.context_length} were left out."
        return (f"The text is longer than the model reads: {left_out}",) if tokens else ()

    # -- Indexing -----------------------------------------------------------------------------------------------------

    def index_directory(self, path: str | Path, descriptions: Mapping[str, str]) -> IndexResult:
        source = canonical_uri(str(path))
        with Objects(self._access) as objects:
            objects.check(source)

            def listing(directory: Path, captions: Captions) -> Manifest:
                return write_manifest([source], directory, objects, captions=captions)

            return self._index(listing, descriptions, base=source)

    def index_images(self, paths: Sequence[str | Path], descriptions: Mapping[str, str]) -> IndexResult:
        if not paths:
            raise SourceError("There is no image to index: the list of paths is empty.")
        with Objects(self._access) as objects:
            infos = [_stat(objects, uri) for uri in dict.fromkeys(canonical_uri(str(path)) for path in paths)]

            def listing(directory: Path, captions: Captions) -> Manifest:
                return manifest_of(infos, directory, captions=captions)

            by_name = _unique_names(info.uri for info in infos)
            spelled = {by_name.get(_nfc(str(key)), key): text for key, text in descriptions.items()}
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
            taken_down=summary.taken_down,
            indexed=counts["indexed"],
            failures=tuple(control.failures_of_run(summary.run_id)) if counts["failed"] else (),
            unmatched=unmatched,
            collection=summary.collection,
        )

    # -- The model and its collection ---------------------------------------------------------------------------------

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        return locate(self._model_name)

    @property
    def _encoder(self) -> Encoder:
        return self._executor.encoder(self._checkpoint, self._settings)

    @functools.cached_property
    def _decoder(self) -> Decoder:
        """One process for all images of queries; it starts with the first."""
        return Decoder(
            self._checkpoint.preprocess,
            ImageLimits(self._settings.max_image_bytes, self._settings.max_image_pixels),
            timeout_s=self._settings.decode_timeout_s,
            memory_bytes=self._settings.decode_memory_bytes,
        )

    @functools.cached_property
    def _access(self) -> ObjectAccess:
        return object_access(self._settings)

    def _open(self) -> Collection:
        """The live collection, made where there is none; raises `ModelMismatchError`."""
        collection = open_collection(self._store, self._settings, self._checkpoint, create=True)
        assert collection is not None
        return collection

    def _live(self) -> Collection:
        """The live collection; raises `CollectionMissingError` where nothing is indexed yet."""
        live = self._store.collections.live(self._settings.index)
        if live is None:
            raise CollectionMissingError(
                f"There is no index {self._settings.index!r} yet in {self._store.address}: index_directory makes it."
            )
        return live


def _hit(hit: StoredHit, baseline: Sequence[float]) -> Hit:
    payload = dict(hit.payload)
    return Hit(
        id=hit.id,
        score=hit.score,
        relevance=share(baseline, hit.score) if baseline else None,
        uri=payload.get("uri", ""),
        caption=payload.get("caption"),
        width=payload.get("width"),
        height=payload.get("height"),
        payload=payload,
    )


def _stat(objects: Objects, uri: str) -> ObjectInfo:
    try:
        return objects.stat(uri)
    except ObjectError as error:
        raise SourceError(f"{error.message} Nothing was indexed.") from error


def _unique_names(uris: Iterable[str]) -> dict[str, str]:
    """URIs by the last part of their path, of those whose last part no other has."""
    named: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        path = display_key(file_path(uri)) if uri.startswith("file://") else uri
        named[_nfc(path.rpartition("/")[2])].append(uri)
    return {name: found[0] for name, found in named.items() if len(found) == 1}


def _nfc(name: str) -> str:
    # macOS writes file names in another form than most people type.
    return unicodedata.normalize("NFC", name)
