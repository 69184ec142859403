"""Build a collection beside the live one: create or resume it, and fill it until a round changes nothing."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from viewfinder.edge.copying import stored_bytes
from viewfinder.errors import ConfigurationError
from viewfinder.indexing.accounting import RunResult
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import remove_source
from viewfinder.indexing.run import Indexer
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.status import estimated_bytes, format_bytes
from viewfinder.reindexing.upgrade_lock import UpgradeLock
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.uris import canonical_uri, source_uri
from viewfinder.store import Collection, Store
from viewfinder.store.directory import store_directory
from viewfinder.store.recorded import CaptionsRecord, Recorded, SourceRecord
from viewfinder.store.schema import SCHEMA_VERSION, ModelIdentity
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.reindex")

# After this many rounds a bucket that keeps changing is promoted; one more run follows after the promotion.
MAX_ROUNDS = 5
# Qdrant needs hours to build the graphs of 100 million vectors.
READY_TIMEOUT_S = 12 * 3600.0
_WAIT_LOG_EVERY_S = 15.0
# Headroom: the embedded store's files grow during writes, and a collection made before may lack quantized vectors.
_DISK_FACTOR = 1.4


def plan_run(
    live: Collection,
    options: ReindexOptions,
    *,
    prune_max_ratio: float,
    captions_from: Collection | None = None,
) -> IndexOptions:
    """Return the run that reads every recorded source, or those given, each with its own patterns and captions files.

    Raises `ConfigurationError` if no source is recorded, or if one was indexed with `--max-objects`.
    """
    wanted = wanted_records(live, options)
    if not wanted.sources:
        raise ConfigurationError(
            f"The live collection {live.name!r} has no recorded sources to build from. Name them with --source."
        )
    if limited := [uri for uri, each in wanted.sources.items() if each.max_objects is not None]:
        raise ConfigurationError(
            f"{', '.join(map(repr, limited))} was indexed with --max-objects, so a re-index may read other objects. "
            "Index it without --max-objects first, or name the sources with --source."
        )
    return IndexOptions(
        sources=tuple(wanted.sources),
        recorded=wanted,
        captions_from=captions_from,
        prune=True,
        prune_max_ratio=prune_max_ratio,
        prune_captions=options.prune_captions and captions_from is None,
        prune_captions_max_ratio=options.prune_captions_max_ratio,
        retry_failed=options.retry_failed,
    )


def wanted_records(collection: Collection, options: ReindexOptions) -> Recorded:
    """Return the sources and captions files that the collection has recorded, or those that are given."""
    sources, captions = dict(collection.recorded.sources), list(collection.recorded.captions)
    if options.sources:
        given = [source_uri(each) for each in options.sources]
        sources = {uri: replace(sources.get(uri, SourceRecord(uri)), max_objects=None) for uri in given}
    if options.captions:
        files = list(dict.fromkeys(map(canonical_uri, options.captions)))
        captions = [CaptionsRecord(source, uri, "") for uri in files for source in sources]
    return Recorded(sources=sources, captions=captions)


def check_disk_space(
    store: Store,
    live: Collection,
    checkpoint: Checkpoint,
    *,
    disk_usage: Callable[[Path], Any] = shutil.disk_usage,
) -> None:
    """Raise `ConfigurationError` if the embedded store's disk cannot take a second collection.

    For a server, whose free space is unknown, only log the estimate.
    """
    address = store.address
    if address.url is not None:
        needed = estimated_bytes(store, live, checkpoint.dimension)
        logger.info("The new collection will take about %s on %s", format_bytes(needed), address)
        return
    directory = store_directory(address.data_dir)
    needed = round(_DISK_FACTOR * stored_bytes(directory))
    if (free := disk_usage(directory).free) < needed:
        raise ConfigurationError(
            f"{str(directory)!r} has {format_bytes(free)} of free disk space; a second collection beside the live one "
            f"needs about {format_bytes(needed)}. Free some space, or move the index to a Qdrant server "
            "(VIEWFINDER_QDRANT_URL)."
        )


def find_reusable(store: Store, live: Collection, checkpoint: Checkpoint, *, rebuild: bool) -> Collection | None:
    """Return a collection of this model to continue with: an unfinished one, else a ready or retired one.

    With `rebuild` only an unfinished one is reused.
    """
    same_model = [
        each
        for each in store.collections.all(live.index)
        if each.name != live.name
        and each.metadata.fingerprint == checkpoint.fingerprint
        and each.metadata.schema_version == SCHEMA_VERSION
    ]
    for state in ("building",) if rebuild else ("building", "ready", "retired"):
        if in_state := [each for each in same_model if each.metadata.state == state]:
            return in_state[-1]
    return None


def open_new(store: Store, lock: UpgradeLock, live: Collection, checkpoint: Checkpoint, *, rebuild: bool) -> Collection:
    """Return the collection to fill, reused or created. Drops all others that are unfinished or were not promoted."""
    lock.renew()
    reusable = find_reusable(store, live, checkpoint, rebuild=rebuild)
    for each in store.collections.all(live.index):
        unpromoted = each.metadata.state in ("building", "ready") and each.name != live.name
        if unpromoted and (reusable is None or each.name != reusable.name):
            logger.info("Dropping %s (%s): it was never promoted", each.name, each.metadata.state)
            store.collections.drop(each.name)
    if reusable is not None:
        logger.info("Continuing with %s (%s)", reusable.name, reusable.metadata.state)
        if reusable.metadata.state == "building":
            store.collections.complete(reusable)
        return reusable
    created = store.collections.create(live.index, ModelIdentity.of(checkpoint), bulk_load=True)
    logger.info("Building %s beside %s", created.name, live.name)
    return created


def fill(
    store: Store,
    indexer: Indexer,
    lock: UpgradeLock,
    new: Collection,
    checkpoint: Checkpoint,
    current_run: Callable[[], IndexOptions],
    on_round: Callable[[RunResult], None],
    check_listing: Callable[[Collection, Manifest], None] = lambda collection, manifest: None,
) -> RunResult:
    """Index the sources in rounds until a round changes nothing and the count is exact; return its result.

    `current_run` is called before each round, because sources may be added meanwhile, and `on_round` after it.
    `check_listing` may refuse the listing of a round before anything is encoded.
    """
    for number in range(1, MAX_ROUNDS + 1):
        lock.renew()
        run = current_run()
        logger.info("Round %d over %s", number, counted(len(run.sources), "source"))
        new = replace_records(store, new, run)
        with indexer.listed(run, new) as listed:
            check_listing(new, listed.manifest)
            result = indexer.sync(run, new, checkpoint, listed)
        lock.renew()
        on_round(result)
        if result.changed:
            continue
        logger.info("No more changes; waiting until %s is ready", new.name)
        _wait_ready(store, new)
        # A takedown between the listing and this count makes the two differ; the next round corrects it.
        if count_points(store, new, result) == result.expected:
            break
    else:
        logger.info(
            "The sources are still changing after %d rounds; remaining changes follow after the promotion", MAX_ROUNDS
        )
        _wait_ready(store, new)
    if new.metadata.state == "building":
        store.collections.update_metadata(new.name, state="ready")
    return result


def count_points(store: Store, collection: Collection, result: RunResult) -> int:
    """Count the points that the sources of a run have in the collection."""
    return store.points.count(collection, {"sources": {"in": [each["source"] for each in result.manifest.sources]}})


def replace_records(store: Store, collection: Collection, run: IndexOptions) -> Collection:
    """Record exactly the sources and captions files of `run`, and delete points that belong only to others."""
    recorded = store.collections.refresh(collection).recorded
    for uri in recorded.sources.keys() - set(run.sources):
        remove_source(store, collection, uri)
    if run.captions_from is not None:
        add_missing_fields(store, collection, run.captions_from)
    return add_records(store, collection, run)


def add_missing_fields(store: Store, collection: Collection, source: Collection) -> None:
    """Record and index the fields of captions that `source` has in use and the collection lacks."""
    known = store.collections.refresh(collection).recorded.fields
    missing = source.recorded.fields.keys() - known.keys()
    store.collections.add_fields(collection, _fields_in_use(store, source, missing))


def _fields_in_use(store: Store, collection: Collection, names: Iterable[str]) -> dict[str, str]:
    """Return the kinds of those fields that any point has: captions that are taken over need them.

    The others free their places (`viewfinder.indexing.caption_fields.MAX_FIELDS`). Those that captions files have are
    recorded again.
    """
    kinds = collection.recorded.fields
    return {name: kinds[name] for name in sorted(names) if store.points.exist(collection, {name: {"ne": None}})}


def add_records(store: Store, collection: Collection, run: IndexOptions) -> Collection:
    """Record the sources and captions files of `run`, the latter in their order."""
    wanted = run.recorded or Recorded()
    records = store.collections.records(collection)
    records.record_sources(wanted.sources.values())
    known = store.collections.refresh(collection).recorded
    for source in wanted.sources:
        files = wanted.captions_of(source)
        if known.captions_of(source) != files:
            for uri in files:
                records.record_captions(source, uri)
    return store.collections.refresh(collection)


def add_missing_records(store: Store, collection: Collection, wanted: Recorded) -> Collection:
    """Record the sources and captions files that the collection lacks. What it has stays as it is.

    Jobs may have recorded more, other patterns, and another order of the files since it became the live one.
    """
    records = store.collections.records(collection)
    known = store.collections.refresh(collection).recorded
    for source in wanted.sources:
        there = known.captions_of(source)
        for uri in wanted.captions_of(source):
            if uri not in there:
                records.record_captions(source, uri)
    records.record_sources(wanted.sources.values(), only_new=True)
    return store.collections.refresh(collection)


def _wait_ready(store: Store, collection: Collection) -> None:
    """Wait until Qdrant has built the graphs, which may take hours. It is polled every second, logged every 15 s."""
    store.collections.build_graphs(collection)
    next_log_s = 0.0

    def log(state: str) -> None:
        nonlocal next_log_s
        if time.monotonic() >= next_log_s:
            next_log_s = time.monotonic() + _WAIT_LOG_EVERY_S
            logger.info("%s", state)

    store.collections.wait_ready(collection, READY_TIMEOUT_S, log)
