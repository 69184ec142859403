"""Faults of the past, put back one at a time: the simulation must find each.

Modules are imported inside functions, so that each mutation needs only the module that it changes.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from greenlet import getcurrent, greenlet


@dataclass(frozen=True)
class Mutation:
    """A fault that `patches` put back. Histories have `features`, so that they meet it soon; that of `seed` does."""

    name: str
    breaks: str
    features: frozenset[str]
    seed: int
    patches: Callable[[], Iterator[Any]] = field(repr=False)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the fault back for a while."""
        with ExitStack() as stack:
            for each in self.patches():
                stack.enter_context(each)
            yield


def _last_captions_file() -> Iterator[Any]:
    from viewfinder.reindexing import build

    plan_run = build.plan_run

    def plan(*arguments: Any, **options: Any) -> Any:
        run = plan_run(*arguments, **options)
        last = {each.source: each for each in run.recorded.captions}
        recorded = replace(run.recorded, captions=list(last.values()))
        return replace(
            run,
            recorded=recorded,
            prune_captions=bool(last),
            prune_captions_max_ratio=1.0,
            captions_from=None,
        )

    yield patch.object(build, "plan_run", plan)


def _captions_of_other_runs() -> Iterator[Any]:
    from viewfinder.indexing.captions_prune import CountedTexts

    yield patch.object(CountedTexts, "holds", lambda self, id_, point, record: True)


def _captions_are_not_removed() -> Iterator[Any]:
    from viewfinder.indexing.captions_prune import CaptionsPrune

    yield patch.object(CaptionsPrune, "carry_out", lambda self, run_id: 0)


def _all_other_captions_files_are_forgotten() -> Iterator[Any]:
    from viewfinder.indexing.run import Indexer

    def forget(self: Indexer, listed: Any, collection: Any) -> None:
        records = self._store.collections.records(collection)
        for each in listed.manifest.sources:
            for uri in set(listed.recorded.captions_of(each["source"])).difference(each.get("captions", ())):
                records.remove_captions(each["source"], uri)

    yield patch.object(Indexer, "_forget_captions", forget)


def _hashes_of_what_is_stored() -> Iterator[Any]:
    from viewfinder.indexing import captions_prune
    from viewfinder.sources.captions import CaptionRecord

    with_caption = captions_prune._with_caption

    def changed(point: Any, caption: Any, stamp: Any) -> Any:
        tags, meta = point.payload.get("tags") or (), point.payload.get("meta")
        record = CaptionRecord.of(None, tags, meta)
        return with_caption(point, caption if not caption["caption_hash"] else record.payload(), stamp)

    yield patch.object(captions_prune, "_with_caption", changed)


def _blank_cells_erase() -> Iterator[Any]:
    from viewfinder.indexing.compare import Compare

    yield patch.object(Compare, "_keep_texts", lambda self, rows, states, store: None)


def _prune_by_what_is_there_now() -> Iterator[Any]:
    from viewfinder.indexing.points_before import PointBefore, PointsBefore
    from viewfinder.store.points import Points

    detach = Points.detach
    taken: dict[Any, tuple[Any, Any]] = {}
    take = PointsBefore.take.__func__  # type: ignore[attr-defined]

    def noted(cls: Any, store: Any, collection: Any, *arguments: Any, **options: Any) -> Any:
        made = take(cls, store, collection, *arguments, **options)
        taken[made.path] = store, collection
        return made

    def points(self: PointsBefore) -> Iterator[PointBefore]:
        store, collection = taken[self.path]
        for record in list(store.points.iterate(collection, {"sources": {"in": list(self.sources)}})):
            yield PointBefore.of(record.id, record.payload)

    def detach_anyway(self: Points, collection: Any, ids: Any, source: str, *, written_by: Any) -> int:
        return detach(self, collection, ids, source)

    yield patch.object(Points, "detach", detach_anyway)
    yield patch.object(PointsBefore, "take", classmethod(noted))
    yield patch.object(PointsBefore, "points", points)


def _one_list_of_sources() -> Iterator[Any]:
    from viewfinder.store.collection_records import CollectionRecords

    read, record_sources = CollectionRecords.read, CollectionRecords.record_sources
    known: dict[greenlet, Any] = {}  # what each program has read first

    def noted(self: CollectionRecords) -> Any:
        return known.setdefault(getcurrent(), read(self))

    def write_list(self: CollectionRecords, sources: Any, **options: Any) -> None:
        sources = list(sources)
        kept = known.pop(getcurrent(), read(self)).sources.keys() | {each.uri for each in sources}
        record_sources(self, sources, **options)
        self.remove_sources(read(self).sources.keys() - kept)

    yield patch.object(CollectionRecords, "read", noted)
    yield patch.object(CollectionRecords, "record_sources", write_list)


def _failures_for_ever() -> Iterator[Any]:
    from viewfinder.indexing import compare

    yield patch.object(compare, "is_same_decision", lambda failure, decided_by: True)


def _crashes_are_permanent() -> Iterator[Any]:
    from viewfinder.indexing import failures

    yield patch.object(failures, "_is_confirmed", lambda crashes, machines: True)


def _no_bound_after_a_switch() -> Iterator[Any]:
    from viewfinder.reindexing import build

    plan_run = build.plan_run
    yield patch.object(
        build, "plan_run", lambda *arguments, **options: plan_run(*arguments, **{**options, "prune_max_ratio": 1.0})
    )


def _two_spellings() -> Iterator[Any]:
    from viewfinder.indexing import preflight, run
    from viewfinder.reindexing import build
    from viewfinder.sources import manifest
    from viewfinder.sources.uris import canonical_uri
    from viewfinder.store import collection_records, recorded

    for module in (collection_records, recorded, manifest, preflight, run, build):
        if hasattr(module, "source_uri"):
            yield patch.object(module, "source_uri", canonical_uri)


def _weak_ordering() -> Iterator[Any]:
    from viewfinder.store import control

    yield patch.object(control, "CONDITIONAL_ORDERING", None)


def _vectors_are_not_checked() -> Iterator[Any]:
    from viewfinder.indexing import unwritable

    yield patch.object(unwritable, "have_direction", lambda vectors: np.full(len(vectors), True))


def _final_timeouts() -> Iterator[Any]:
    from viewfinder.store import server

    yield patch.object(server, "_RETRIED_STATUSES", frozenset({429, 502, 503, 504}))
    yield patch.object(server, "_RETRIED_500", re.compile("(?!)"))


def _new_points_overwrite() -> Iterator[Any]:
    from viewfinder.store.points import Points

    upsert = Points.upsert

    def overwrite(self: Points, collection: Any, batch: Any, *, wait: bool, only_new: bool) -> None:
        upsert(self, collection, batch, wait=wait)

    yield patch.object(Points, "upsert", overwrite)


def _changes_without_condition() -> Iterator[Any]:
    from qdrant_client import models

    from viewfinder.store.points import Points

    call = Points._replace

    def replace_anyway(self: Points, collection: Any, points: Any, before: Any) -> None:
        of_points = self._call

        def without_filter(method: str, **arguments: Any) -> Any:
            return of_points(method, **{**arguments, "update_filter": models.Filter()})

        with patch.object(self, "_call", without_filter):
            call(self, collection, points, before)

    yield patch.object(Points, "_replace", replace_anyway)


def _failures_delete_later_contents() -> Iterator[Any]:
    from viewfinder.indexing import compare

    yield patch.object(compare, "_is_current", lambda failure, state: True)


def _deletions_without_condition() -> Iterator[Any]:
    from viewfinder.store.points import Points

    def delete_anyway(self: Points, collection: Any, before: Any) -> None:
        self.delete(collection, list(before))

    yield patch.object(Points, "delete_unchanged", delete_anyway)


def _only_what_is_seen_is_deleted() -> Iterator[Any]:
    from viewfinder.store.points import Points

    delete = Points.delete
    yield patch.object(
        Points, "delete", lambda self, collection, ids: delete(self, collection, list(self.states(collection, ids)))
    )


def _writes_are_not_checked() -> Iterator[Any]:
    from viewfinder.indexing import write

    yield patch.object(write, "_missing", lambda *arguments: [])


def _model_changes_are_not_completed() -> Iterator[Any]:
    from viewfinder.reindexing import workflow

    promote = workflow.promote
    yield patch.object(workflow, "promote", lambda store, lock, new, **metadata: promote(store, lock, new))


def _listings_without_end() -> Iterator[Any]:
    from viewfinder.sources.s3_listing import _SeenPages

    yield patch.object(_SeenPages, "next_token", lambda self, answer: answer.get("NextContinuationToken"))


def _archived_objects_are_read() -> Iterator[Any]:
    from viewfinder.sources import s3_listing

    yield patch.object(s3_listing, "ARCHIVE_CLASSES", frozenset())


def _versions_as_read() -> Iterator[Any]:
    from viewfinder.indexing import fetch

    yield patch.object(fetch, "version_read", lambda listed, read: read)


def _etags_alone() -> Iterator[Any]:
    from viewfinder.indexing import compare

    yield patch.object(compare, "is_same", lambda known, listed: known.etag == listed.etag)


def _denials_are_permanent() -> Iterator[Any]:
    from viewfinder.indexing import fetch

    yield patch.object(fetch, "is_permanent", lambda error: error.reason == "access_denied")


def _failures_are_not_retried() -> Iterator[Any]:
    from viewfinder.indexing import run

    compare = run.Compare
    yield patch.object(run, "Compare", lambda *values, **named: compare(*values, **{**named, "retry_failed": False}))


def _no_bound_for_captions() -> Iterator[Any]:
    from viewfinder.indexing.captions_prune import CaptionsPrune

    init = CaptionsPrune.__init__
    yield patch.object(CaptionsPrune, "__init__", lambda *values, **named: init(*values, **{**named, "max_ratio": 1.0}))


def _any_loss_is_allowed() -> Iterator[Any]:
    from viewfinder.reindexing import workflow

    bounds = workflow.Bounds
    yield patch.object(workflow, "check_loss", lambda *values, **named: None)
    yield patch.object(workflow, "Bounds", lambda *values, **named: bounds(*values, **{**named, "allowed_loss": 9}))


def _removed_sources_return() -> Iterator[Any]:
    from viewfinder.store.collection_records import CollectionRecords

    yield patch.object(CollectionRecords, "remove_sources", lambda self, sources: None)


def _mutation(name: str, breaks: str, feature: str, seed: int, patches: Callable[[], Iterator[Any]]) -> Mutation:
    return Mutation(name, breaks, frozenset({feature}), seed, patches)


MUTATIONS = (
    _mutation("captions", "only the last captions file counts", "several captions files", 22, _last_captions_file),
    _mutation("blank captions", "a blank cell erases a text", "blank captions", 0, _blank_cells_erase),
    Mutation(
        "captions of other runs",
        "a prune of captions removes what came after its listing",
        frozenset({"captions beside their prune", "blank captions"}),
        102,
        _captions_of_other_runs,
    ),
    Mutation(
        "captions files",
        "a prune of captions forgets a file that another run has recorded",
        frozenset({"captions beside their prune"}),
        41,
        _all_other_captions_files_are_forgotten,
    ),
    Mutation(
        "captions that stay",
        "a prune of captions removes none",
        frozenset({"captions beside their prune", "blank captions"}),
        0,
        _captions_are_not_removed,
    ),
    Mutation(
        "hashes of captions",
        "the hash of a caption is that of what the store made of it",
        frozenset({"captions beside their prune", "blank captions"}),
        0,
        _hashes_of_what_is_stored,
    ),
    _mutation("prune", "a prune sees what came after its listing", "two index runs", 27, _prune_by_what_is_there_now),
    _mutation("sources", "sources are one list, read and written", "two index runs", 28, _one_list_of_sources),
    _mutation("overwrite", "a new point replaces that of another run", "two index runs", 75, _new_points_overwrite),
    _mutation(
        "changes", "a point is changed whatever it is", "two writers of one point", 202, _changes_without_condition
    ),
    _mutation(
        "later contents",
        "a failure deletes a later content",
        "many writers of one point",
        4,
        _failures_delete_later_contents,
    ),
    _mutation(
        "completion",
        "a change of model is not completed",
        "model changes cut short",
        31,
        _model_changes_are_not_completed,
    ),
    _mutation("failures", "a permanent failure is for ever", "decoder upgrades", 4, _failures_for_ever),
    _mutation("crashes", "one crash is permanent", "bad nodes", 7, _crashes_are_permanent),
    _mutation("bound", "the sync after a switch has no bound", "vanishing sources", 0, _no_bound_after_a_switch),
    _mutation("spelling", "s3://b/p and s3://b/p/ are two sources", "two spellings", 11, _two_spellings),
    _mutation("lock", "weak ordering of the upgrade lock", "two reindexes", 0, _weak_ordering),
    _mutation("vectors", "every vector is written", "vectors that are not finite", 0, _vectors_are_not_checked),
    _mutation("tokens", "a repeated token is followed for ever", "repeated tokens", 0, _listings_without_end),
    _mutation("archived", "archived objects are read", "archived objects", 0, _archived_objects_are_read),
    _mutation("versions", "the version of GET is recorded", "odd ETags", 15, _versions_as_read),
    _mutation("ETags", "only ETags are compared", "odd ETags", 0, _etags_alone),
    _mutation("denied", "an object without access is never read again", "denied access", 0, _denials_are_permanent),
    _mutation("retries", "--retry-failed does nothing", "retries", 0, _failures_are_not_retried),
    _mutation("pruned captions", "captions are removed without a bound", "pruned captions", 12, _no_bound_for_captions),
    _mutation("loss", "--allow-loss is without a bound", "archived objects", 139, _any_loss_is_allowed),
    _mutation("removed sources", "a removed source returns", "removed sources", 1, _removed_sources_return),
    _mutation(
        "deletions",
        "a point is deleted whatever it is",
        "many writers of one point",
        195,
        _deletions_without_condition,
    ),
    _mutation(
        "late inserts", "a run is done before its points are there", "two index runs", 22, _writes_are_not_checked
    ),
    _mutation(
        "takedowns",
        "a takedown deletes the points that can be read",
        "takedowns beside inserts",
        14,
        _only_what_is_seen_is_deleted,
    ),
    _mutation("timeouts", "408 and 500 are final", "timeouts and failed replicas", 0, _final_timeouts),
)
