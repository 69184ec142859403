"""Collections: create, promote behind the alias, describe, wait until ready, drop."""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qdrant_client import models

from viewfinder import clock
from viewfinder.errors import (
    CollectionMissingError,
    ConfigurationError,
    ModelMismatchError,
    StoreError,
    StoreUnavailableError,
)
from viewfinder.store.collection_records import CollectionRecords
from viewfinder.store.connection import Connection
from viewfinder.store.control import Control
from viewfinder.store.field_names import TEXT, field_path
from viewfinder.store.filters import words_path
from viewfinder.store.schema import (
    PAYLOAD_INDEXES,
    Collection,
    CollectionMetadata,
    CollectionState,
    ModelIdentity,
    build_number,
    collection_name,
    payload_index,
    vectors_config,
    words_index,
)
from viewfinder.store.words import CAPTION_WORDS
from viewfinder.wording import counted

logger = logging.getLogger(__name__)

BM25_VERSION = (1, 20)  # the first server version that ranks a text index by BM25
TURBOQUANT_VERSION = (1, 18)  # the first server version with 4-bit quantization
# Kilobytes of vectors in a segment above which Qdrant builds its graph; 0: never. The second is Qdrant's own default.
NO_GRAPHS, GRAPHS_ABOVE_KB = 0, 20_000


class Collections:
    """The collections of all indexes, and the aliases that name the live ones."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._call = connection.call

    def live(self, index: str) -> Collection | None:
        """Return the collection that the alias `index` names; None if the alias does not exist."""
        while (name := self._alias(index)) is not None:
            try:
                return self._describe(index, name)
            except CollectionMissingError:
                if self._alias(index) == name:
                    raise
                # Between the two requests the alias moved and the old collection was dropped.
        return None

    def live_beside(self, collection: Collection) -> Collection | None:
        """Return the live collection of the same index; None if that is `collection` itself."""
        return None if self._alias(collection.index) == collection.name else self.live(collection.index)

    def require_live(self, index: str) -> Collection:
        """Return the live collection; raise `ConfigurationError` if there is none yet."""
        live = self.live(index)
        if live is None:
            raise ConfigurationError(
                f"There is no index {index!r} in {self._connection.address} yet. Create it with "
                "'viewfinder index s3://bucket/prefix'."
            )
        return live

    def indexes(self) -> list[str]:
        """Return the names of all indexes that have a live collection."""
        aliases = self._call("get_aliases").aliases
        return sorted(
            each.alias_name for each in aliases if build_number(each.alias_name, each.collection_name) is not None
        )

    def all(self, index: str) -> list[Collection]:
        """Return all collections of `index` in any state, sorted by build."""
        found = []
        for each in self._call("get_collections").collections:
            if build_number(index, each.name) is not None:
                try:
                    found.append(self._describe(index, each.name))
                except CollectionMissingError:
                    continue  # dropped by another program since the request above
        return sorted(found, key=lambda collection: collection.build)

    def refresh(self, collection: Collection) -> Collection:
        """Return the collection with its current metadata; raise `CollectionMissingError` if it was dropped."""
        return self._describe(collection.index, collection.name)

    def open(self, index: str, model: ModelIdentity) -> Collection:
        """Return the live collection of `index`; create and promote one if there is none.

        Raises `ModelMismatchError` if the live collection was made by another model.
        """
        live = self.live(index)
        if live is None:
            self._refuse_plain_collection(index)
            known = self.all(index)
            # Use a collection that another program has just created, or that a crash left before its promotion.
            # The build number comes from the same listing, so programs that see no collection all create number 1.
            same = [each.name for each in known if each.metadata.fingerprint == model.fingerprint]
            name = same[-1] if same else _next_name(index, model, (each.build for each in known))
            created = self._create(index, name, model, "building")
            self.build_graphs(created)  # a re-index that was killed may have left it without
            self.promote(index, created.name)
            live = self.live(index) or created
        check_model(live, model)
        for field in live.missing_indexes:
            self._create_field_index(live.name, field, PAYLOAD_INDEXES[field])
        wants_words = not live.ranks_words and self._ranks_words()  # the server was upgraded since it made the index
        if wants_words:
            self._create_words_index(live.name, CAPTION_WORDS, ranked=True)
        return self.refresh(live) if wants_words or live.missing_indexes else live

    def create(
        self, index: str, model: ModelIdentity, state: CollectionState = "building", *, bulk_load: bool = False
    ) -> Collection:
        """Create a further collection of `index`, empty and with all payload indexes.

        With `bulk_load` a server builds no graphs of its vectors before `build_graphs`: graphs that are built during
        loading are built again whenever segments are merged. With payload indexes on disk it builds them during
        loading, because a segment without graphs holds these in memory: 2,500 bytes per point instead of 180.
        """
        builds = (build_number(index, each.name) or 0 for each in self._call("get_collections").collections)
        return self._create(index, _next_name(index, model, builds), model, state, bulk_load=bulk_load)

    def complete(self, collection: Collection) -> None:
        """Create payload indexes that are missing: a run may have been killed before it made them."""
        self._create_indexes(collection.name)

    def build_graphs(self, collection: Collection) -> None:
        """Let the server build graphs from now on, at the threshold of the live collection; see `create`."""
        if self._connection.is_embedded:
            return
        live = self._alias(collection.index)
        usual = None if live is None else self._indexing_threshold(live)
        if self._indexing_threshold(collection.name) == NO_GRAPHS:
            self._call(
                "update_collection",
                collection_name=collection.name,
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=usual or GRAPHS_ABOVE_KB),
            )

    def promote(self, index: str, name: str) -> None:
        """Point the alias `index` to the collection `name` in one step."""
        # Qdrant applies alias actions one by one and never rolls back: so one action, and only when it can succeed.
        if not self._call("collection_exists", collection_name=name):
            raise CollectionMissingError(
                f"Collection {name!r} cannot become the live one of {index!r}: it does not exist."
            )
        self._refuse_plain_collection(index)
        create = models.CreateAlias(alias_name=index, collection_name=name)
        self._call(
            "update_collection_aliases", change_aliases_operations=[models.CreateAliasOperation(create_alias=create)]
        )
        self.update_metadata(name, state="live")

    def update_metadata(self, name: str, **changes: Any) -> None:
        """Replace fields of a collection's metadata; other fields stay unchanged."""
        unknown = changes.keys() - CollectionMetadata.__dataclass_fields__.keys()
        if unknown:
            raise ValueError(f"no metadata fields {sorted(unknown)}")
        # Qdrant merges top-level keys, so two programs that change different fields lose nothing.
        self._call("update_collection", collection_name=name, metadata=changes)

    def records(self, collection: Collection) -> CollectionRecords:
        """Return the records of a collection, to change them; `collection.recorded` are those read last."""
        return self._records(collection.index, collection.metadata)

    def drop(self, name: str) -> None:
        """Delete a collection with all its points and records, if it exists."""
        try:
            metadata = self._call("get_collection", collection_name=name).config.metadata or {}
        except CollectionMissingError:
            return
        self._call("delete_collection", collection_name=name)
        if "collection_id" in metadata:
            CollectionRecords(Control(self._connection, metadata["index"]), metadata["collection_id"]).remove_all()

    def add_fields(self, collection: Collection, fields: Mapping[str, str]) -> None:
        """Record fields of captions files (`meta.NAME`) and index them for filters.

        Kinds are types of Qdrant's payload indexes.
        """
        for name, kind in fields.items():
            if kind == TEXT:
                self._create_words_index(collection.name, words_path(name), ranked=False)
            else:
                self._create_field_index(collection.name, field_path(name), models.PayloadSchemaType(kind))
        self.records(collection).record_fields(fields)

    def wait_ready(
        self,
        collection: Collection,
        timeout_s: float,
        progress: Callable[[str], None] | None = None,
        *,
        poll_s: float = 1.0,
        polls: int = 3,
    ) -> None:
        """Return once `polls` polls in a row find status green, an empty update queue and idle optimizers.

        After a restart Qdrant's status is grey until the next write, and its optimizers wait for one: they are started
        here. An embedded collection whose graphs cannot be built is ready, with a warning: searches work without them.
        Raises `StoreError` with what is still missing after `timeout_s`.
        """
        clock, sleep = self._connection.retry.clock, self._connection.retry.sleep
        deadline = clock() + timeout_s
        stable = grey = 0
        while True:
            info = self._call("get_collection", collection_name=collection.name)
            if info.status == models.CollectionStatus.GREY:
                grey += 1
                if grey == 1:
                    self._start_optimizers(collection)
            missing = self._unready(collection, info, grey_is_ready=grey > polls)
            stable = 0 if missing else stable + 1
            if stable >= polls:
                if failure := _optimizer_failure(info):
                    logger.warning("Searches of collection %r stay slow: %s", collection.name, failure)
                return
            if progress is not None:
                progress(missing or f"ready; checked {stable} of {polls} times")
            if clock() + poll_s > deadline:
                raise StoreError(
                    f"Collection {collection.name!r} is not ready after {timeout_s:g} s: {missing or 'not stable'}."
                )
            sleep(poll_s)

    def why_no_words(self) -> str:
        """Return why a collection without `ranks_words` cannot rank by words, and what to do."""
        needed = ".".join(map(str, BM25_VERSION))
        if self._ranks_words():
            return (
                "The index of words was made by a Qdrant server older than "
                f"{needed}. Run 'viewfinder index' again, which makes it anew, or search by vector (rank 'clip')."
            )
        version = ".".join(map(str, self._connection.server_version() or ()))
        return (
            f"The Qdrant server has version {version}, which cannot rank by words: 'words' and 'hybrid' need "
            f"Qdrant {needed} or newer. Upgrade it and run 'viewfinder index' again, or search by vector (rank 'clip')."
        )

    def _create(
        self, index: str, name: str, model: ModelIdentity, state: CollectionState, *, bulk_load: bool = False
    ) -> Collection:
        """Create the collection `name` unless it exists; its payload indexes exist before any data."""
        metadata = CollectionMetadata(
            index=index,
            fingerprint=model.fingerprint,
            model={**model.spec, "name": model.name},
            dimension=model.dimension,
            state=state,
            created_at=clock.timestamp(),
            collection_id=uuid.uuid4().hex,
            language=self._connection.address.language,
        )
        vectors = self._vectors_config(model.dimension)
        without_graphs = bulk_load and not self._connection.is_embedded and not self._indexes_on_disk
        loading = models.OptimizersConfigDiff(indexing_threshold=NO_GRAPHS)
        try:
            self._call(
                "create_collection",
                collection_name=name,
                vectors_config=vectors,
                optimizers_config=loading if without_graphs else None,
                metadata=metadata.as_payload(),
            )
        except StoreUnavailableError:
            raise
        except StoreError:  # it exists: created by another program, or by a request whose response was lost
            if not self._call("collection_exists", collection_name=name):
                raise
        self._create_indexes(name)
        return self._describe(index, name)

    def _vectors_config(self, dimension: int) -> dict[str, models.VectorParams]:
        """Return the vectors of new collections; raise `StoreError` if the server does not support them."""
        address = self._connection.address
        version = self._connection.server_version()
        if version is None:
            return vectors_config(dimension, address.quantization, address.vector_type)
        if address.quantization == "4bit" and version < TURBOQUANT_VERSION:
            raise StoreError(
                f"{address} has version {version[0]}.{version[1]}, which has no 4-bit quantization. "
                f"Upgrade Qdrant to {'.'.join(map(str, TURBOQUANT_VERSION))} or newer, or set "
                "VIEWFINDER_QUANTIZATION=int8."
            )
        return vectors_config(
            dimension, address.quantization, address.vector_type, graphs_on_disk=address.on_disk == "graphs"
        )

    def _indexing_threshold(self, name: str) -> int | None:
        config = self._call("get_collection", collection_name=name).config
        return None if config.optimizer_config is None else config.optimizer_config.indexing_threshold

    def _alias(self, index: str) -> str | None:
        aliases = self._call("get_aliases").aliases
        return next((each.collection_name for each in aliases if each.alias_name == index), None)

    def _describe(self, index: str, name: str) -> Collection:
        info = self._call("get_collection", collection_name=name)
        metadata = CollectionMetadata.parse(name, info.config.metadata)
        recorded = self._records(index, metadata).read()
        ranks_words = self._connection.is_embedded or _is_ranked(info.payload_schema.get(CAPTION_WORDS))
        missing = tuple(each for each in PAYLOAD_INDEXES if each not in info.payload_schema)
        return Collection(name, index, build_number(index, name) or 0, metadata, recorded, ranks_words, missing)

    def _records(self, index: str, metadata: CollectionMetadata) -> CollectionRecords:
        return CollectionRecords(Control(self._connection, index), metadata.collection_id)

    def _refuse_plain_collection(self, index: str) -> None:
        if any(each.name == index for each in self._call("get_collections").collections):
            raise StoreError(
                f"{self._connection.address} has a collection named {index!r}, so no index can have that name. "
                "Choose another name (VIEWFINDER_INDEX), or drop that collection."
            )

    def _create_indexes(self, name: str) -> None:
        for field, kind in PAYLOAD_INDEXES.items():
            self._create_field_index(name, field, kind)
        self._create_words_index(name, CAPTION_WORDS, ranked=self._ranks_words())

    def _create_field_index(self, name: str, path: str, kind: models.PayloadSchemaType) -> None:
        self._create_index(name, path, payload_index(kind, on_disk=self._indexes_on_disk))

    def _create_words_index(self, name: str, path: str, *, ranked: bool) -> None:
        self._create_index(name, path, words_index(ranked=ranked, on_disk=self._indexes_on_disk))

    def _create_index(self, name: str, path: str, schema: Any) -> None:
        self._call("create_payload_index", collection_name=name, field_name=path, field_schema=schema, wait=True)

    @property
    def _indexes_on_disk(self) -> bool:
        return self._connection.address.on_disk != "vectors" and not self._connection.is_embedded

    def _ranks_words(self) -> bool:
        version = self._connection.server_version()
        return version is None or version >= BM25_VERSION

    def _start_optimizers(self, collection: Collection) -> None:
        """Start optimizers that wait for a write: an update without changes is enough."""
        self._call(
            "update_collection", collection_name=collection.name, optimizers_config=models.OptimizersConfigDiff()
        )

    def _unready(self, collection: Collection, info: models.CollectionInfo, *, grey_is_ready: bool) -> str | None:
        """Return why a collection is not ready, or None.

        Never by a count: an exact one reads the ids of all points into Qdrant's memory.
        """
        grey = info.status == models.CollectionStatus.GREY
        if info.status != models.CollectionStatus.GREEN and not (grey and grey_is_ready):
            failure = _optimizer_failure(info)
            return f"status {info.status.value}" + (f" ({failure})" if failure else "")
        if info.update_queue is not None and (info.update_queue.length or info.update_queue.deferred_points):
            return f"{counted(info.update_queue.length, 'update')} in the queue"
        running = 0 if grey else self._optimizations(collection)
        return f"{running} optimizations running or queued" if running else None

    def _optimizations(self, collection: Collection) -> int:
        if self._connection.address.url is None:
            return 0  # the embedded store has no optimizers
        answer = self._call("get_optimizations", collection_name=collection.name)
        return len(answer.running) + int(answer.summary.queued_optimizations)


def _optimizer_failure(info: models.CollectionInfo) -> str | None:
    """Return what went wrong when graphs were built at the last attempt."""
    status = info.optimizer_status
    return status.error if isinstance(status, models.OptimizersStatusOneOf1) else None


def _is_ranked(index: models.PayloadIndexInfo | None) -> bool:
    """Return True for a text index that ranks by BM25."""
    return bool(getattr(getattr(index, "params", None), "scoring", None))


def check_model(live: Collection, model: ModelIdentity) -> None:
    """Raise `ModelMismatchError` if the live collection of an index was made by another model."""
    recorded = live.metadata
    if recorded.fingerprint != model.fingerprint:
        raise ModelMismatchError(
            f"Index {live.index!r} was made by model {recorded.model_name!r} (fingerprint {recorded.fingerprint}), but "
            f"this run uses {model.name!r} (fingerprint {model.fingerprint}). To change the model run "
            "'viewfinder reindex'; to keep the live one pass its name as --model, or no --model at all."
        )


def _next_name(index: str, model: ModelIdentity, builds: Iterable[int]) -> str:
    return collection_name(index, model.name, model.fingerprint, max(builds, default=0) + 1)
