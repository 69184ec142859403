"""The phases of a re-index: preflight → build → verify → promote → catch up → clean up.

A run may be killed in any phase; the next run continues there. Before the promotion the live collection is only read.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from viewfinder.errors import (
    ConfigurationError,
    ModelMismatchError,
    StoreBusyError,
    UnknownModelError,
    ViewfinderError,
)
from viewfinder.evaluation.evaluation_set import LabelledQuery, as_stored, load_evaluation_set
from viewfinder.images.loading import TRUNCATED_TAIL
from viewfinder.indexing.accounting import RunResult, skip_counts, too_many_failures
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.preflight import check_sources, model_of
from viewfinder.indexing.prune import PruneRefusedError
from viewfinder.indexing.report import Report, joined
from viewfinder.indexing.run import Indexer, delete_taken_down
from viewfinder.indexing.running import begin, end
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.registry import canonical_name
from viewfinder.reindexing import build
from viewfinder.reindexing.archived import LossRefusedError, check_loss
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.promote import (
    correct_states,
    drop_retired,
    promote,
    retired_collections,
    states_are_correct,
    wait_for_service,
)
from viewfinder.reindexing.report import ReindexPlan, ReindexRecord, ReindexResult
from viewfinder.reindexing.rollback import RollbackPause, read_pause, resume_runs
from viewfinder.reindexing.upgrade_lock import UpgradeLock
from viewfinder.reindexing.verify import Bounds, CollectionPair, verify
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.store import Collection, Store
from viewfinder.store.recorded import Recorded

logger = logging.getLogger("viewfinder.reindex")

T = TypeVar("T")

REFUSED = "refused: the live collection stays"


def reindex(
    options: ReindexOptions,
    settings: Settings,
    store: Store,
    indexer: Indexer,
    report: Report,
    *,
    access: ObjectAccess | None = None,
) -> ReindexResult:
    """Bring an index up to date, or change its model.

    Raises `ViewfinderError` if that is not possible. If a new collection fails its checks, the result has a `problem`
    and the live collection stays live.
    """
    return _Reindex(options, settings, store, indexer, report, access or ObjectAccess.of(settings)).run()


def wanted_model(options: ReindexOptions, settings: Settings, live_model: str) -> str:
    """Return the name of the model that a re-index ends with: --model, else VIEWFINDER_MODEL, else the live one."""
    return options.model or (settings.model if "model" in settings.model_fields_set else live_model)


def has_wanted_model(options: ReindexOptions, settings: Settings, store: Store) -> bool:
    """Return True if the live collection has the wanted model, so that `--when-model-changed` needs no cluster.

    False, too, if the change to it has not been completed.
    """
    live = store.collections.require_live(settings.index)
    wanted = locate(wanted_model(options, settings, live.metadata.model_name))
    same = wanted.fingerprint == live.metadata.fingerprint and not live.metadata.behind
    if same:
        logger.info("%s has model %s (%s); nothing to do", live.name, wanted.name, wanted.fingerprint)
    return same


class _Reindex:
    def __init__(
        self,
        options: ReindexOptions,
        settings: Settings,
        store: Store,
        indexer: Indexer,
        report: Report,
        access: ObjectAccess,
    ) -> None:
        self._options = options
        self._settings = settings
        self._access = access
        self._store = store
        self._indexer = indexer
        self._report = report
        self._record = ReindexRecord()
        self._retired: set[str] = set()  # the collections that were retired when this run took the upgrade lock

    def run(self) -> ReindexResult:
        live = self._store.collections.require_live(self._settings.index)
        if not self._options.dry_run:
            begin(self._report, self._store, live.index)
        pause = read_pause(self._store.control(live.index))
        if pause and self._options.model is None:
            logger.warning("Scheduled runs of index %r are paused %s. Pass --release or --model.", live.index, pause)
            return self._result(live, "paused after a rollback")
        wanted = locate(wanted_model(self._options, self._settings, live.metadata.model_name))
        logger.info("Wanted model: %s (%s). Live: %s", wanted.name, wanted.fingerprint, live.name)
        if self._is_current(live, wanted):
            if not self._options.dry_run:
                self._repair(live, pause)
            return self._update(live, wanted)
        if self._options.dry_run:
            run = build.plan_run(live, self._options, prune_max_ratio=1.0, captions_from=live)
            reusable = build.find_reusable(self._store, live, wanted, rebuild=self._options.rebuild)
            step = (
                f"continue with {reusable.name} ({reusable.metadata.state})" if reusable else "build a new collection"
            )
            return self._plan(f"{step} for model {wanted.name} ({wanted.fingerprint})", live, run, reusable)
        with UpgradeLock(self._store.control(live.index), self._report.run_id) as lock:
            correct_states(self._store, live.index)
            self._retired = {each.name for each in retired_collections(self._store, live.index)}
            # Another run may have promoted a collection before this one got the lock.
            live = self._store.collections.require_live(live.index)
            if self._is_current(live, wanted):
                return self._update(live, wanted)
            return self._change_model(lock, live, wanted)

    def _update(self, live: Collection, wanted: Checkpoint) -> ReindexResult:
        """Index new and changed objects into the live collection and prune those that are gone."""
        caught_up = None
        if live.metadata.behind and not self._options.dry_run:
            with self._record.phase("catch up"):
                caught_up = self._catch_up(live, wanted)
            live = self._store.collections.refresh(live)
        if self._options.when_model_changed:
            outcome = "caught up" if self._record.phases else "nothing to do: the model has not changed"
            logger.info("The index has model %s already; %s", wanted.name, outcome)
            return self._result(live, outcome, caught_up)
        run = build.plan_run(live, self._options, prune_max_ratio=self._options.prune_max_ratio)
        if self._options.dry_run:
            return self._plan("bring the live collection up to date", live, run, live)
        with self._record.phase("preflight"):
            self._check_sources(run)
        with self._record.phase("update"):
            if self._options.captions:
                live = build.add_records(self._store, live, run)
            elif self._options.sources:  # their captions files are those that are recorded, in that order
                sources = build.wanted_records(live, self._options).sources
                self._store.collections.records(live).record_sources(sources.values())
                live = self._store.collections.refresh(live)
            _, problems = self._sync(live, wanted, run, self._options)
        self._store.collections.update_metadata(live.name, counts=self._record.counts | skip_counts(self._record.skips))
        failures = too_many_failures(self._record.counts, self._options.max_failure_ratio)
        return self._result(live, "brought up to date", joined([caught_up, *problems, failures]))

    def _change_model(self, lock: UpgradeLock, live: Collection, wanted: Checkpoint) -> ReindexResult:
        """Build a collection beside the live one, verify it, and promote it."""
        store, record = self._store, self._record
        with record.phase("preflight"):
            queries = self._load_queries(live)
            self._check_sources(self._run_of_new(live))
            live_model = _find_model(live)
            build.check_disk_space(store, live, wanted)
            self._take_over_records(live)
        with record.phase("build"):
            new = build.open_new(store, lock, live, wanted, rebuild=self._options.rebuild)
            try:
                result = self._fill(lock, live, new, wanted)
            except LossRefusedError as error:
                return self._result(live, REFUSED, str(error), refused=new.name)
        with record.phase("verify"):
            pair = CollectionPair(store.collections.refresh(new), wanted, live, live_model)
            problem = self._verify(pair, result, queries)
        if problem is not None:
            return self._result(live, REFUSED, problem, refused=new.name)
        with record.phase("promote"):
            runs = [each.run_id for each in store.collections.refresh(new).recorded.runs]
            self._promote(lock, new, behind=live.name, built_by=runs)
            promoted_s = lock.held_s
        with record.phase("catch up"):
            problem = self._catch_up_or_say_why(store.collections.refresh(new), wanted)
        dropped: list[str] = []
        if problem is None:  # else a retired collection may be needed
            with record.phase("clean up"):
                dropped = drop_retired(
                    store,
                    lock,
                    live.index,
                    keep=self._options.keep,
                    grace_s=self._settings.grace_s + self._settings.refresh_s,
                    retired_for_s=dict.fromkeys(self._retired, lock.held_s) | {live.name: lock.held_s - promoted_s},
                )
        self._warn_of_other_model(wanted)
        new = store.collections.refresh(new)
        return self._result(new, f"switched from {live.name}", problem, retired=live.name, dropped=dropped)

    def _run_of_new(self, live: Collection) -> IndexOptions:
        """The run that fills the new collection. Index jobs may add sources to the live one meanwhile."""
        live = self._store.collections.refresh(live)
        # Pruning needs no bound: this collection is not searched yet, and the check "points kept" refuses one that is
        # too small.
        return build.plan_run(live, self._options, prune_max_ratio=1.0, captions_from=live)

    def _fill(self, lock: UpgradeLock, live: Collection, new: Collection, wanted: Checkpoint) -> RunResult:
        """Fill the new collection. Raises `LossRefusedError` if the listing loses archived images."""
        record = self._record
        result = build.fill(
            self._store,
            self._indexer,
            lock,
            new,
            wanted,
            lambda: self._run_of_new(live),
            record.add_round,
            lambda new, manifest: check_loss(
                self._store, live, new, manifest, self._indexer.restored, allowed=self._options.allow_loss
            ),
        )
        self._store.collections.update_metadata(new.name, counts=record.counts | skip_counts(record.skips))
        return result

    def _verify(self, pair: CollectionPair, result: RunResult, queries: Sequence[LabelledQuery]) -> str | None:
        """Check the new collection; return a message that names the failed checks, None if there are none."""
        options = self._options
        bounds = Bounds(
            options.max_failure_ratio,
            options.prune_max_ratio,
            options.max_quality_loss,
            allowed_loss=options.allow_loss,
        )
        checks = verify(self._store, self._indexer, pair, result, queries, bounds)
        self._record.add_checks(checks)
        failed = [f"{each.name} is {each.value}, must be {each.bound}" for each in checks if each.passed is False]
        if not failed:
            return None
        return (
            f"{pair.new.name} failed its checks: {'; '.join(failed)}. {pair.live.name} stays live and unchanged. Run "
            "again to update and verify it again, or pass --rebuild to start over."
        )

    def _promote(self, lock: UpgradeLock, new: Collection, *, behind: str, built_by: Sequence[str]) -> None:
        promote(self._store, lock, new, behind=behind, built_by=built_by)
        if self._options.model is not None:
            resume_runs(self._store.control(new.index))
        wait_for_service(self._settings.service_url, new.name)

    def _catch_up_or_say_why(self, live: Collection, model: Checkpoint) -> str | None:
        """Catch up after the switch; return the problem, if there is one."""
        try:
            return self._catch_up(live, model)
        except ViewfinderError as error:
            delete_taken_down(self._store, live)  # which a run does at its end
            return (
                f"{live.name} is live, but may lack what changed while it was built: {error} Run again: the next "
                "re-index begins with that."
            )

    def _catch_up(self, live: Collection, model: Checkpoint) -> str | None:
        """Index what changed while the collection was built, and return the problem, if there is one.

        Captions that came with a request to the service are in no file: those that the retired collection got since it
        was read are taken over, except for points that another run than those that built this one has written since the
        switch.
        """
        # This collection is searched now, so the user's bound on pruning applies.
        ratio, built_by = self._options.prune_max_ratio, frozenset(live.metadata.built_by)
        retired, live = self._take_over_records(live)
        # Jobs that began after the switch may have recorded more.
        of_live = replace(self._options, sources=(), captions=())
        run = build.plan_run(live, of_live, prune_max_ratio=ratio)
        if retired is not None and not self._options.prune_captions:
            build.add_missing_fields(self._store, live, retired)
            run = replace(run, captions_from=retired, captions_over=built_by)
        result, problems = self._sync(live, model, run, of_live)
        if not result.manifest.sources_gone:
            self._store.collections.update_metadata(live.name, behind="", built_by=[])
        return joined(problems)

    def _take_over_records(self, live: Collection) -> tuple[Collection | None, Collection]:
        """Record what jobs have recorded in the collection that the live one is behind; return that one, and the live.

        Returns None if there is no such collection.
        """
        collections = self._store.collections
        retired = next((each for each in collections.all(live.index) if each.name == live.metadata.behind), None)
        if retired is None:
            return None, collections.refresh(live)
        return retired, build.add_missing_records(self._store, live, build.wanted_records(retired, self._options))

    def _warn_of_other_model(self, live: Checkpoint) -> None:
        """Warn if the next run without --model would change the index back."""
        options = self._options
        following = canonical_name(wanted_model(replace(options, model=None), self._settings, live.name))
        if options.model is not None and following not in (options.model, live.name):
            logger.warning(
                "VIEWFINDER_MODEL is %r. Set it to %r, or the next run without --model will change the index back.",
                self._settings.model,
                options.model,
            )

    def _repair(self, live: Collection, pause: RollbackPause | None) -> None:
        """Complete the steps of a run that was killed right after it moved the alias."""
        # If there is a pause, this run has --model; otherwise it would have ended already.
        if pause and pause.collection != live.name:
            resume_runs(self._store.control(live.index))
        if states_are_correct(self._store, live):
            return
        # A run that holds the lock corrects the states itself.
        with suppress(StoreBusyError), UpgradeLock(self._store.control(live.index), self._report.run_id):
            correct_states(self._store, live.index)

    def _is_current(self, live: Collection, wanted: Checkpoint) -> bool:
        return live.metadata.fingerprint == wanted.fingerprint and not self._options.rebuild

    def _sync(
        self, collection: Collection, model: Checkpoint, run: IndexOptions, options: ReindexOptions
    ) -> tuple[RunResult, list[str]]:
        """Bring a live collection up to date; return the result, and what was left out or not pruned and why."""

        def sync(run: IndexOptions) -> RunResult:
            planned, now = run.recorded or Recorded(), Recorded()

            def recorded() -> Recorded:
                nonlocal now
                now = build.wanted_records(self._store.collections.refresh(collection), options)
                return replace(planned, captions=now.captions)

            with self._indexer.listed(run, collection, recorded) as listed:
                if run.prune_captions and (added := now.sources.keys() - planned.sources.keys()):
                    logger.info("No captions are pruned: %s was recorded meanwhile", ", ".join(sorted(added)))
                    run = replace(run, prune_captions=False)
                return self._indexer.sync(run, collection, model, listed)

        result, refused = _without_refused_prune(run, sync)
        self._record.add_round(result)
        return result, [*refused, *result.problems]

    def _check_sources(self, run: IndexOptions) -> None:
        """List the sources here, and list them and read one object of each on a worker."""
        check_sources(run, self._access)
        self._indexer.check(run.sources)

    def _load_queries(self, live: Collection) -> Sequence[LabelledQuery]:
        """Load the evaluation set, if there is one; at least one of its images must be in the live collection."""
        uri = self._options.evaluation_set
        if uri is None:
            return ()
        with Objects(self._access) as objects:
            queries = load_evaluation_set(uri, objects)
        queries = as_stored(queries, lambda ids: self._store.points.states(live, ids))
        relevant = sorted({id_ for query in queries for id_ in query.relevant})
        if not self._store.points.states(live, relevant):
            raise ConfigurationError(
                f"None of the {len(relevant)} images in the evaluation set {uri!r} is in {live.name!r}. Use the URIs "
                "that the index has."
            )
        return queries

    def _plan(self, step: str, live: Collection, run: IndexOptions, collection: Collection | None) -> ReindexResult:
        """Count what a run would do; `collection` is the one to fill, None if it would be created."""
        found, refused = _without_refused_prune(run, lambda run: self._indexer.plan(run, collection))
        captions = (run.recorded or Recorded()).captions_of
        plan = ReindexPlan(step, {source: captions(source) for source in run.sources}, found.actions, found.prune)
        return self._result(live, "dry run", joined([*refused, *found.problems]), plan=plan)

    def _result(self, live: Collection, outcome: str, problem: str | None = None, **details: Any) -> ReindexResult:
        """Make the result and, unless this is a dry run, write the report."""
        dry_run, report = self._options.dry_run, self._report
        if not dry_run:
            report.write_failures(self._store, live, self._record.counts.get("failed", 0))
        result = ReindexResult(
            run_id=report.run_id,
            outcome=outcome,
            problem=joined([problem, *report.problems]),
            started_at=report.started_at,
            seconds=report.seconds,
            index=live.index,
            collection=live.name,
            model=live.metadata.model_name,
            fingerprint=live.metadata.fingerprint,
            counts=self._record.counts,
            skipped=self._record.skips,
            captions={"pruned": self._record.pruned_captions},
            failures=self._record.failures,
            warnings=dict(self._record.warnings),
            warned={TRUNCATED_TAIL: self._record.warned} if self._record.warned else {},
            phases=self._record.phases,
            checks=self._record.checks,
            dry_run=dry_run,
            report=None if dry_run else report.destination,
            **details,
        )
        if not dry_run:
            if unwritten := report.try_write_summary(result.as_summary()):
                result = replace(result, problem=joined([result.problem, unwritten]))
            end(report, self._store, live.index)
        return result


def _without_refused_prune(run: IndexOptions, step: Callable[[IndexOptions], T]) -> tuple[T, list[str]]:
    """Return the result of a step and no problem; if its prune is refused, that of the step without it and the reason.

    A refused prune changes nothing, and new objects must not wait for it.
    """
    try:
        return step(run), []
    except PruneRefusedError as error:
        logger.warning("%s", error)
        return step(replace(run, prune=False, prune_captions=False)), [str(error)]


def _find_model(live: Collection) -> Checkpoint | None:
    """Return the model of the live collection to compare with, None if it can no longer be loaded."""
    try:
        return model_of(live)
    except (UnknownModelError, ModelMismatchError) as error:
        logger.warning("The live model cannot be loaded for comparison: %s", error)
        return None
