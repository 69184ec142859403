"""Indexing and searching in one process, without Ray: the engine's local mode.

Points, failures and metadata are those that the job writes, so that either goes on where the other stopped.
"""

import functools
import secrets
import time
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from viewfinder.client.requests import ImageInput, image_bytes
from viewfinder.client.results import Hit, SearchResult, Stats
from viewfinder.errors import CollectionMissingError, ConfigurationError, ImageError, ObjectError, SourceError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits
from viewfinder.local_batch import Batch, Item
from viewfinder.models.checkpoint import Checkpoint, find, locate
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.manifest import Patterns, Source
from viewfinder.sources.objects import (
    ObjectAccess,
    ObjectInfo,
    Objects,
    canonical_uri,
    display_key,
    file_path,
    point_id,
)
from viewfinder.store import Collection, Failure, Search, Store, StoreAddress, connect, open_local
from viewfinder.store.baselines import queries, renew, share
from viewfinder.store.records import Hit as StoredHit
from viewfinder.store.records import Vectors
from viewfinder.store.schema import VECTOR_NAMES, VectorName

MAX_TOP_K = 200  # as the service has it
_BATCH = 32
_RUNS_KEPT = 50


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """What one call of `index_directory` or `index_images` did: listed = unchanged + indexed + failed.

    `withheld` of the unchanged stay out of the index because they were taken down. `failures` say which pictures are
    not in the index and why; `unmatched` are the keys of descriptions that belong to none of the pictures.
    """

    listed: int
    unchanged: int
    withheld: int
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

    def search_image(self, image: ImageInput, top_k: int, target: VectorName) -> SearchResult:
        content = image_bytes(image)
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
            within = Source(source, Patterns())
            infos = [info for info in objects.list(source) if within.holds(info.uri)]
            if not infos:
                raise SourceError(f"Nothing to index in {source!r}: there is no file that could be an image.")
            base = file_path(source) if source.startswith("file://") else source
            captions, unmatched = _matched(descriptions, infos, base=base)
            items = [Item(point_id(info.uri), info, [source], captions.get(info.uri)) for info in infos]
            return self._index(items, objects, [source], unmatched)

    def index_images(self, paths: Sequence[str | Path], descriptions: Mapping[str, str]) -> IndexResult:
        if not paths:
            raise SourceError("There is no image to index: the list of paths is empty.")
        with Objects(self._access) as objects:
            infos = [_stat(objects, uri) for uri in dict.fromkeys(canonical_uri(str(path)) for path in paths)]
            captions, unmatched = _matched(descriptions, infos, base=None)
            items = [Item(point_id(info.uri), info, [info.uri], captions.get(info.uri)) for info in infos]
            return self._index(items, objects, [info.uri for info in infos], unmatched)

    def _index(
        self, items: Sequence[Item], objects: Objects, sources: Sequence[str], unmatched: Sequence[str]
    ) -> IndexResult:
        collection = self._open()
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._note_run(collection, run_id, sources)
        failures: list[Failure] = []
        unchanged = withheld = 0
        size = self._settings.encode_batch_size or _BATCH
        for start in range(0, len(items), size):
            run = Batch(self._store, collection, run_id, items[start : start + size])
            run.compare()
            run.read(objects, self._decoder, self._limits)
            if run.wanted or run.recaptioned:
                run.write(self._encoder)
            run.note()
            failures += run.failures
            unchanged += run.unchanged
            withheld += run.withheld
        indexed = len(items) - unchanged - len(failures)
        counts = {"listed": len(items), "unchanged": unchanged, "indexed": indexed, "failed": len(failures)}
        self._store.collections.update_metadata(collection.name, counts=counts | {"pruned": 0})
        texts = queries(self._checkpoint.spec.languages)
        renew(self._store, collection, indexed, lambda: self._encoder.encode_texts(texts)[0])
        return IndexResult(
            listed=len(items),
            unchanged=unchanged,
            withheld=withheld,
            indexed=indexed,
            failures=tuple(failures),
            unmatched=tuple(unmatched),
            collection=collection.name,
        )

    def _note_run(self, collection: Collection, run_id: str, sources: Sequence[str]) -> None:
        """Note run and sources with the collection, so that a re-index can read them all again."""
        known = {str(each["source"]): dict(each) for each in collection.metadata.sources}
        known = {source: {"source": source, "include": [], "exclude": []} for source in sources} | known
        runs = [*collection.metadata.runs, run_id][-_RUNS_KEPT:]
        self._store.collections.update_metadata(collection.name, sources=list(known.values()), runs=runs)

    # -- The model and its collection ---------------------------------------------------------------------------------

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        return locate(self._model_name)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder.load(self._checkpoint, device=self._settings.device, precision=self._settings.precision)

    @functools.cached_property
    def _decoder(self) -> Decoder:
        """One process for all pictures, of the index and of queries; it starts with the first."""
        return Decoder(
            self._checkpoint.preprocess,
            self._limits,
            timeout_s=self._settings.decode_timeout_s,
            memory_bytes=self._settings.decode_memory_bytes,
        )

    @property
    def _limits(self) -> ImageLimits:
        return ImageLimits(self._settings.max_image_bytes, self._settings.max_image_pixels)

    @property
    def _access(self) -> ObjectAccess:
        return ObjectAccess(endpoint_url=self._settings.s3_endpoint_url, anonymous=self._settings.s3_anonymous)

    def _open(self) -> Collection:
        """The live collection, made where there is none; raises `ModelMismatchError`."""
        checkpoint = self._checkpoint
        # Where this machine keeps the weights means nothing to the next.
        spec = {name: value for name, value in asdict(checkpoint.spec).items() if name != "directory"}
        return self._store.collections.open(
            self._settings.index, checkpoint.name, spec, checkpoint.fingerprint, checkpoint.dimension
        )

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


def _matched(
    descriptions: Mapping[str, str], infos: Sequence[ObjectInfo], *, base: str | None
) -> tuple[dict[str, CaptionRecord], list[str]]:
    """The caption of each URI that has one, and the keys that fit nothing.

    A relative key counts from `base`; without it, from the working directory, or it is the name of just one file.
    """
    by_place = {_place(info.uri): info.uri for info in infos}
    named: dict[str, list[str]] = defaultdict(list)
    for place, uri in by_place.items():
        named[place.rpartition("/")[2]].append(uri)
    captions: dict[str, CaptionRecord] = {}
    unmatched: list[str] = []
    for key, text in descriptions.items():
        if not isinstance(text, str):
            raise ConfigurationError(f"The description of {str(key)!r} is no text: {text!r}.")
        name = str(key)
        rooted = "://" in name or name.startswith(("/", "~"))
        found = [by_place.get(_place(name if rooted or base is None else f"{base.rstrip('/')}/{name}"))]
        if found == [None] and base is None:
            found = [*named.get(_nfc(name), ())]
        if len(found) == 1 and found[0] is not None:
            captions[found[0]] = CaptionRecord(text.strip() or None)
        else:
            unmatched.append(name)
    return captions, unmatched


def _place(text: str) -> str:
    uri = canonical_uri(text)
    return _nfc(display_key(file_path(uri)) if uri.startswith("file://") else uri)


def _nfc(text: str) -> str:
    # macOS writes file names in another form than most people type.
    return unicodedata.normalize("NFC", text)
