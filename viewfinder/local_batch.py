"""Some listed objects on their way into a collection, in one process: compared, read, encoded, written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from viewfinder.errors import ObjectError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import Decoded, ImageLimits
from viewfinder.models.encoder import Encoder
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.objects import ObjectInfo, Objects
from viewfinder.store import Collection, Failure, Store
from viewfinder.store.records import Mask, PointBatch, PointState, Vectors


@dataclass(eq=False)
class Item:
    """One listed object on its way into the collection."""

    id: str
    info: ObjectInfo
    sources: list[str]
    caption: CaptionRecord | None  # None leaves the caption as it is
    state: PointState | None = None
    picture: Decoded | None = None


class Batch:
    """Some listed objects: compared with the collection, read, and written, each in one go."""

    def __init__(self, store: Store, collection: Collection, run_id: str, items: Sequence[Item]) -> None:
        self._store = store
        self._collection = collection
        self._run_id = run_id
        self._stamp = {"run_id": run_id, "indexed_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self._items = items
        self._known: dict[str, Failure] = {}  # failures of earlier runs
        self._failed: dict[str, Failure] = {}
        self._gone: list[str] = []
        self.wanted: list[Item] = []  # pictures that are new or changed
        self.recaptioned: list[Item] = []  # points whose caption is another one
        self.unchanged = 0
        self.withheld = 0  # of the unchanged: taken down, and kept out

    @property
    def failures(self) -> list[Failure]:
        return list(self._failed.values())

    def compare(self) -> None:
        """Decide by ETag and caption hash what is to be done with each object."""
        taken_down = self._store.control(self._collection.index).takedowns([item.id for item in self._items])
        self._items = [item for item in self._items if item.id not in taken_down]
        self.withheld = self.unchanged = len(taken_down)
        states = self._store.points.states(self._collection, [item.id for item in self._items])
        missing = [item.id for item in self._items if item.id not in states]
        self._known = self._store.control(self._collection.index).failures(missing)
        resourced: dict[str, list[str]] = {}
        for item in self._items:
            item.state = state = states.get(item.id)
            if state is None:
                known = self._known.get(item.id)
                if known is not None and known.permanent and known.etag == item.info.etag:
                    self._failed[item.id] = replace(known, run_id=self._run_id)
                else:
                    self.wanted.append(item)
                continue
            recaptioned = item.caption is not None and item.caption.caption_hash != state.caption_hash
            if recaptioned:
                self.recaptioned.append(item)
            if state.etag != item.info.etag:
                item.sources = sorted({*item.sources, *state.sources})
                self.wanted.append(item)
            else:
                self.unchanged += not recaptioned
                if not {*item.sources} <= {*state.sources}:
                    resourced[item.id] = item.sources
        if resourced:
            self._store.points.add_sources(self._collection, resourced)

    def read(self, objects: Objects, decoder: Decoder, limits: ImageLimits) -> None:
        """Fetch and decode; a picture that cannot be had is a failure with a reason."""
        for item in self.wanted:
            stage = "fetch"
            try:
                data, etag = objects.read(item.info.uri, max_bytes=limits.max_bytes)
                item.info = replace(item.info, etag=etag, size=len(data))
                stage = "decode"
                item.picture = decoder.decode(data)
            except ObjectError as error:
                info = item.info
                self._failed[item.id] = Failure(
                    info.uri, info.etag, stage, error.reason, error.message, error.permanent, self._run_id
                )
                if item.state is not None and error.permanent:
                    self._gone.append(item.id)
        self.wanted = [item for item in self.wanted if item.id not in self._failed]
        self.recaptioned = [item for item in self.recaptioned if item.id not in self._failed]

    def write(self, encoder: Encoder) -> None:
        """Encode and write. An upsert would drop what this run does not bring, so points that exist are updated."""
        if self.wanted:
            pictures = encoder.encode_images(np.stack([item.picture.pixels for item in self.wanted if item.picture]))
            vectors = dict(zip((item.id for item in self.wanted), pictures, strict=True))
            self._insert([item for item in self.wanted if item.state is None], vectors, encoder)
            if changed := [item for item in self.wanted if item.state is not None]:
                self._store.points.update_images(
                    self._collection,
                    [item.id for item in changed],
                    [self._payload(item) for item in changed],
                    np.stack([vectors[item.id] for item in changed]),
                )
        if self.recaptioned:
            captions, present = _encode_captions(self.recaptioned, encoder)
            payloads = [_caption_payload(item) | self._stamp for item in self.recaptioned]
            ids = [item.id for item in self.recaptioned]
            self._store.points.update_captions(self._collection, ids, payloads, captions, present)

    def note(self) -> None:
        """Remember failures, and forget those that have healed."""
        # A picture whose content changed into something broken must not be found by what it was.
        self._store.points.delete(self._collection, self._gone)
        if self._failed:
            self._store.control(self._collection.index).record_failures(self._failed)
        if healed := [item.id for item in self.wanted if item.id in self._known]:
            self._store.control(self._collection.index).forget_failures(healed)

    def _insert(self, items: Sequence[Item], vectors: Mapping[str, Any], encoder: Encoder) -> None:
        if not items:
            return
        captions, present = _encode_captions(items, encoder)
        batch = PointBatch(
            ids=[item.id for item in items],
            payloads=[self._payload(item) | (_caption_payload(item) if item.caption else {}) for item in items],
            image=np.stack([vectors[item.id] for item in items]),
            caption=captions,
            has_caption=present,
        )
        self._store.points.upsert(self._collection, batch, wait=True)

    def _payload(self, item: Item) -> dict[str, Any]:
        assert item.picture is not None
        payload = asdict(item.info)
        if not payload["last_modified"]:
            del payload["last_modified"]  # an empty text is no date to Qdrant
        picture = {name: getattr(item.picture, name) for name in ("width", "height", "format")}
        return payload | picture | {"sources": item.sources, "kind": "image"} | self._stamp


def _encode_captions(items: Sequence[Item], encoder: Encoder) -> tuple[Vectors, Mask]:
    """float32 [N, D], zeros where an item has no caption, and bool [N] saying which have one."""
    texts = [item.caption.caption if item.caption else None for item in items]
    present = np.array([text is not None for text in texts])
    vectors = np.zeros((len(items), encoder.dimension), np.float32)
    vectors[present], _ = encoder.encode_texts([text for text in texts if text is not None])
    return vectors, present


def _caption_payload(item: Item) -> dict[str, Any]:
    record = item.caption
    assert record is not None
    return {
        "caption": record.caption,
        "caption_hash": record.caption_hash,
        "tags": list(record.tags),
        "meta": dict(record.meta),
    }
