"""The stages of the job in a replica, for images that are indexed on request; imported with the first such request."""

import asyncio
import functools
import json
import logging
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.client.results import IndexedImage
from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.images.decoder import BESIDE_SERVICE
from viewfinder.images.decoding import Preprocess
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.indexing.images import GivenImage, ImageIndexer, ImageOutcome, field_types
from viewfinder.indexing.report import new_run_id
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.query.errors import QueryError
from viewfinder.service.generation.follower import Follower, NotReadyError
from viewfinder.service.generation.generation import LoadedModel
from viewfinder.service.generation.models import Models
from viewfinder.service.new_images import MAX_IMAGES, IndexingResult, NewImage, Upload
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.caption_tables import CaptionRow, caption_row, check_encodable
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, point_id, source_uri
from viewfinder.store import Collection, Store
from viewfinder.store.takedowns import taken_down
from viewfinder.tracing import TracedThreads

T = TypeVar("T")

logger = logging.getLogger(__name__)

# A client cannot wait for an outage of the bucket to end.
RETRY_S = 3.0
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
# A batch that waits for the encoder for so long will not be encoded: the service is closing.
ENCODE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Checked:
    """An image whose request is valid: its canonical URI, None for an upload, and its caption."""

    uri: str | None
    caption: CaptionRow | None


@dataclass(frozen=True)
class CheckedImages:
    """The checked images of one request, which is one run of the index."""

    images: Sequence[Checked]
    run_id: str

    @property
    def uris(self) -> list[str | None]:
        return [each.uri for each in self.images]


class Indexing:
    """Runs the stages with the models of the replica, whose batches are shared with searches.

    Its methods block; `loop` is the event loop that encodes.
    """

    def __init__(self, settings: Settings, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings.model_copy(update={"encode_batch_size": MAX_IMAGES})
        self._store = store
        # The model of each fingerprint that has been asked for, by a collection that it has made.
        self._known: dict[str, tuple[Models, Collection]] = {}
        self._loop = loop
        self._uploads = None if settings.uploads_uri is None else source_uri(settings.uploads_uri)
        self._access = replace(
            ObjectAccess.of(settings),
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=READ_TIMEOUT_S,
            retry_s=RETRY_S,
        )
        # Two requests at a time have a decoder process each.
        self._executor = InProcessExecutor(
            cores=1,
            pool=TracedThreads,
            encoder=lambda checkpoint: _SharedEncoder(checkpoint, self._encode),
            niceness=BESIDE_SERVICE,
        )

    def close(self) -> None:
        """End the decoders."""
        self._executor.close()

    def check(self, images: Sequence[NewImage], collection: Collection) -> "CheckedImages":
        """Check URIs and captions, before uploads are stored. Raises `QueryError`."""
        checked = [_check(each, f"images.{number}") for number, each in enumerate(images)]
        try:
            field_types(collection, [each.caption for each in checked if each.caption is not None])
        except ConfigurationError as error:
            raise QueryError(str(error)) from error
        return CheckedImages(checked, new_run_id())

    def index(
        self, follower: Follower, request: "CheckedImages", start: int, received: Sequence[Upload | IndexedImage | None]
    ) -> IndexingResult:
        """Store uploads and index the images from `start` on; what was received of each is an upload or its outcome."""
        checked = request.images[start : start + len(received)]
        uploads = [each if isinstance(each, Upload) else None for each in received]
        unusable = [each if isinstance(each, IndexedImage) else None for each in received]
        uris = [
            each.uri if upload is None else f"{self._uploads}/{upload.name}"
            for each, upload in zip(checked, uploads, strict=True)
        ]
        unstored = self._store_uploads(
            follower.index, {uri: upload.data for uri, upload in zip(uris, uploads, strict=True) if uri and upload}
        )
        given = [
            GivenImage(uri, None if each.caption is None else replace(each.caption, key=uri))
            for uri, each in zip(uris, checked, strict=True)
            if uri is not None and uri not in unstored
        ]
        indexer = ImageIndexer(
            self._settings.model_copy(update={"index": follower.index}),
            self._store,
            self._executor,
            self._access,
            functools.partial(self._checkpoint_of, follower.models),
            self._uploads,
            run_id=request.run_id,
            captions=[each.caption for each in request.images if each.caption is not None],
        )
        try:
            found = indexer.index(given)
        except ConfigurationError as error:
            raise QueryError(str(error)) from error
        follower.refresh()  # for new fields, and for a new live collection
        outcomes = {**found.outcomes, **unstored}
        return IndexingResult(
            tuple(
                problem or _indexed_image(uri or "", outcomes[uri or ""])
                for uri, problem in zip(uris, unusable, strict=True)
            ),
            found.run_id,
            found.collection.metadata.model_name,
            found.collection.name,
            found.warnings,
        )

    def _store_uploads(self, index: str, contents: Mapping[str, bytes]) -> dict[str, ImageOutcome]:
        """Store contents that are not there yet; return the outcomes of those that are taken down or not stored."""
        objects = objects_of(self._access)
        ids = {point_id(uri): uri for uri in contents}
        excluded = taken_down(self._store.control(index), ids) if ids else ()
        outcomes: dict[str, ImageOutcome] = {}
        for id_, uri in ids.items():
            if id_ in excluded:
                outcomes[uri] = ImageOutcome("skipped", "taken_down")
                continue
            try:
                _store(objects, uri, contents[uri])
            except ObjectError as error:
                logger.warning("The upload %s cannot be stored: %s", uri, error.message)
                outcomes[uri] = ImageOutcome("failed", "not_stored", f"The upload cannot be stored: {error.message}")
        return outcomes

    def _checkpoint_of(self, models: Models, collection: Collection) -> Checkpoint:
        self._known[collection.metadata.fingerprint] = models, collection
        return self._model_of(collection.metadata.fingerprint).encoder.checkpoint

    def _encode(self, fingerprint: str, encode: Callable[[LoadedModel], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine of this model."""
        encoding = encode(self._model_of(fingerprint))
        return asyncio.run_coroutine_threadsafe(encoding, self._loop).result(ENCODE_TIMEOUT_S)

    def _model_of(self, fingerprint: str) -> LoadedModel:
        """The model, which is loaded if it is not in memory, as that of a new live collection may be."""
        models, collection = self._known[fingerprint]
        try:
            return models.load(collection, beside=True)
        except Exception as error:  # loading a model can raise anything
            logger.warning("The model of %s cannot be loaded: %s", collection.name, error)
            raise NotReadyError("The model of the live collection cannot be loaded; see the log.") from error


class _Encode(Protocol):
    def __call__(self, fingerprint: str, encode: Callable[[LoadedModel], Coroutine[Any, Any, T]]) -> T: ...


class _SharedEncoder:
    """The encoder of a model of the replica, for threads."""

    device = "shared"

    def __init__(self, checkpoint: Checkpoint, encode: _Encode) -> None:
        self._checkpoint = checkpoint
        self._encode = encode

    @property
    def preprocess(self) -> Preprocess:
        return self._checkpoint.preprocess

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        return np.stack(self._encode(self._checkpoint.fingerprint, lambda each: each.encode_images(list(images))))

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        encoded = self._encode(self._checkpoint.fingerprint, lambda each: each.encode_texts(texts))
        return np.stack([vector for vector, _ in encoded]), np.array([cut for _, cut in encoded], np.int64)


def _check(image: NewImage, place: str) -> Checked:
    try:
        uri = None if image.uri is None else canonical_uri(image.uri)
    except SourceError as error:
        raise QueryError(f"{place}.uri: {error}") from error
    if image.caption is None and image.tags is None and image.meta is None:
        return Checked(uri, None)
    try:
        tags = None if image.tags is None else list(image.tags)
        row = caption_row("", image.caption, tags, image.meta or {}, place)
        check_encodable(json.dumps([row.caption, row.tags, row.meta], ensure_ascii=False), place)
    except ConfigurationError as error:
        raise QueryError(str(error)) from error
    return Checked(uri, row)


def _store(objects: Objects, uri: str, data: bytes) -> None:
    """Write an object unless it is there: its name is made of its content."""
    try:
        if objects.stat(uri).size == len(data):
            return
    except ObjectError as error:
        if error.reason != "not_found":
            raise
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        objects.write(uri, Path(file.name))


def _indexed_image(uri: str, outcome: ImageOutcome) -> IndexedImage:
    return IndexedImage(
        id=point_id(uri), uri=uri, outcome=outcome.outcome, reason=outcome.reason, message=outcome.message
    )
