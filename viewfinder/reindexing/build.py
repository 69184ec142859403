"""The building of a collection beside the live one: made or resumed, filled from the recorded sources, caught up."""

import itertools
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from viewfinder.errors import ConfigurationError
from viewfinder.indexing.accounting import RunResult
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.preflight import recorded_spec
from viewfinder.indexing.run import Indexer
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.status import estimated_bytes, size
from viewfinder.reindexing.upgrade_lock import Lease
from viewfinder.sources.objects import canonical_uri
from viewfinder.store import Collection, Store
from viewfinder.store.directory import store_directory
from viewfinder.store.schema import SCHEMA_VERSION

logger = logging.getLogger("viewfinder.reindex")

# A bucket that never rests is caught up with once more after the switch.
ROUNDS = 5
# How often a wait of hours is logged.
LOG_EVERY_S = 15.0
# Qdrant builds the graphs of 100 million vectors in hours.
READY_TIMEOUT_S = 12 * 3600.0
# The embedded store's files grow while they are written.
_ROOM_FACTOR = 1.2
_PAGE = 1000


def sources_of(live: Collection, options: ReindexOptions, *, prune_max_ratio: float) -> list[IndexOptions]:
    """What to read, in passes of equal options: the sources that the live collection records, or those given.

    Raises `ConfigurationError` where that is not the whole index: none recorded, or one of them with `--max-objects`.
    """
    recorded = {str(each["source"]): each for each in live.metadata.sources}
    if options.sources:
        given = [canonical_uri(each) for each in options.sources]
        recorded = {uri: {"source": uri, **_without_limit(recorded.get(uri, {}))} for uri in given}
    if not recorded:
        raise ConfigurationError(
            f"The live collection {live.name!r} records no sources to build from. Name them with --source."
        )
    if limited := [uri for uri, each in recorded.items() if "limit" in each]:
        raise ConfigurationError(
            f"{', '.join(map(repr, limited))} was indexed with --max-objects, so that a re-index would bring another part of "
            "it. Index it in full first (jobs/index.py without --max-objects), or name the sources with --source."
        )
    groups: dict[tuple[Any, ...], list[str]] = {}
    for uri, each in recorded.items():
        captions = options.captions or each.get("captions")
        key = (tuple(each.get("include", ())), tuple(each.get("exclude", ())), captions)
        groups.setdefault(key, []).append(uri)
    return [
        IndexOptions(
            sources=tuple(uris),
            captions=captions,
            include=include,
            exclude=exclude,
            prune=True,
            prune_max_ratio=prune_max_ratio,
        )
        for (include, exclude, captions), uris in groups.items()
    ]


def check_room(store: Store, live: Collection, checkpoint: Checkpoint) -> None:
    """Whether a second collection fits beside the live one; of a server only it knows, so it is said how much."""
    address = store.address
    if address.url is not None:
        needed = estimated_bytes(store, live, checkpoint.dimension)
        logger.info("The new collection will take about %s on %s", size(needed), address)
        return
    directory = store_directory(address.data_dir)
    needed = round(_ROOM_FACTOR * sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()))
    if (free := shutil.disk_usage(directory).free) < needed:
        raise ConfigurationError(
            f"{str(directory)!r} has {size(free)} of free disk space; a second collection beside the live one takes "
            f"about {size(needed)}. Make room, or move the index to a Qdrant server (VIEWFINDER_QDRANT_URL)."
        )


def candidate(store: Store, live: Collection, checkpoint: Checkpoint, *, rebuild: bool) -> Collection | None:
    """The collection to go on with: an unfinished one of this model, else a former one; None asks for a new one.

    With `rebuild` only what a build left unfinished will do.
    """
    same = [
        each
        for each in store.collections.all(live.index)
        if each.name != live.name
        and each.metadata.fingerprint == checkpoint.fingerprint
        and each.metadata.schema_version == SCHEMA_VERSION
    ]
    for state in ("building",) if rebuild else ("building", "ready", "retired"):
        if fitting := [each for each in same if each.metadata.state == state]:
            return fitting[-1]
    return None


def open_target(store: Store, lease: Lease, live: Collection, checkpoint: Checkpoint, *, rebuild: bool) -> Collection:
    """The collection to be filled. What other builds left unfinished is dropped."""
    lease.check()
    chosen = candidate(store, live, checkpoint, rebuild=rebuild)
    for each in store.collections.all(live.index):
        left = each.metadata.state in ("building", "ready") and each.name != live.name
        if left and (chosen is None or each.name != chosen.name):
            logger.info("Dropping %s, which a build left unfinished or unfit", each.name)
            store.collections.drop(each.name)
    if chosen is not None:
        logger.info("Going on with %s (%s)", chosen.name, chosen.metadata.state)
        return chosen
    made = store.collections.create(
        live.index, checkpoint.name, recorded_spec(checkpoint), checkpoint.fingerprint, checkpoint.dimension
    )
    logger.info("Building %s beside %s", made.name, live.name)
    return made


def fill(
    store: Store,
    work: Indexer,
    lease: Lease,
    target: Collection,
    checkpoint: Checkpoint,
    groups: Callable[[], Sequence[IndexOptions]],
    told: Callable[[Sequence[RunResult]], None],
) -> list[RunResult]:
    """Pass over the sources until nothing has changed meanwhile and the count is right; the last round's passes.

    `groups` says before each round what the sources are by then; `told` hears of each round.
    """
    passes: list[RunResult] = []
    for number in range(1, ROUNDS + 1):
        lease.check()
        wanted = groups()
        logger.info("Round %d over %d sources", number, sum(len(each.sources) for each in wanted))
        target = note_sources(store, target, wanted)
        passes = []
        for each in wanted:
            passes.append(work.sync(each, store.collections.refresh(target), checkpoint))
            lease.check()
        told(passes)
        if any(each.changed for each in passes):
            continue
        logger.info("Nothing has changed any more; waiting until %s is ready", target.name)
        store.collections.wait_ready(target, None, READY_TIMEOUT_S, _Told())
        # A takedown between the listing and this count makes the two differ: then another round.
        if all(count == each.expected for count, each in zip(counts(store, target, passes), passes, strict=True)):
            break
    else:
        logger.info("The sources change all the time; what is missing now follows after the switch")
        store.collections.wait_ready(target, None, READY_TIMEOUT_S, _Told())
    if target.metadata.state == "building":
        store.collections.update_metadata(target.name, state="ready")
    return passes


def counts(store: Store, collection: Collection, passes: Sequence[RunResult]) -> list[int]:
    """How many points each pass's sources have in the collection."""
    named = [[str(source["source"]) for source in each.manifest.sources] for each in passes]
    return [store.points.count(collection, {"sources": {"in": sources}}) for sources in named]


def note_sources(store: Store, target: Collection, groups: Sequence[IndexOptions]) -> Collection:
    """Have the target record these sources and no others; points of others alone are deleted."""
    wanted = {uri: _record(uri, group) for group in groups for uri in group.sources}
    target = store.collections.refresh(target)
    recorded = {str(each["source"]): dict(each) for each in target.metadata.sources}
    for uri in recorded.keys() - wanted.keys():
        of_it = (record.id for record in store.points.iterate(target, {"sources": {"in": [uri]}}, ["sources"]))
        while page := list(itertools.islice(of_it, _PAGE)):
            store.points.delete(target, store.points.remove_source(target, page, uri))
    if recorded != wanted:
        store.collections.update_metadata(target.name, sources=list(wanted.values()))
    return store.collections.refresh(target)


class _Told:
    """What a collection is waiting for, said now and then: it is asked every second, and may take hours."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, state: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_EVERY_S
            logger.info("%s", state)


def _record(uri: str, group: IndexOptions) -> dict[str, Any]:
    captions = {"captions": group.captions} if group.captions else {}
    return {"source": uri, "include": list(group.include), "exclude": list(group.exclude), **captions}


def _without_limit(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("source", "limit")}
