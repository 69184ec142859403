"""The phases of a re-index: preflight → build and catch up → verify → switch → catch up once more → clean up.

Every phase may be killed and run again: what is done is found done. Until the switch the live collection is only read.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from viewfinder.cli.output import stdout
from viewfinder.cluster.executor import Work
from viewfinder.errors import ConfigurationError, ModelMismatchError, StoreBusyError, UnknownModelError
from viewfinder.evaluation import evaluation_set as golden
from viewfinder.indexing import preflight
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import Gone
from viewfinder.indexing.reach import Reach
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.reindexing import announcement, build, hold, promotion
from viewfinder.reindexing.operations import live_of
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.report import ReindexReport
from viewfinder.reindexing.upgrade_lock import Lease
from viewfinder.reindexing.verify import Bounds, Sides, verify
from viewfinder.settings import Settings
from viewfinder.sources.objects import Objects
from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.reindex")


class Reindex:
    """One run over one index."""

    def __init__(
        self,
        options: ReindexOptions,
        settings: Settings,
        reach: Reach,
        store: Store,
        work: Work,
        report: ReindexReport,
    ) -> None:
        self._options = options
        self._settings = settings
        self._reach = reach
        self._store = store
        self._work = work
        self._report = report

    def run(self) -> int:
        """Do what there is to do; the exit status."""
        live = live_of(self._store, self._settings.index)
        held = hold.standing(self._store.control(live.index))
        if held and self._options.model is None:
            logger.warning(
                "Index %r is held %s. Nothing is done until --release, or --model with the model that it shall have.",
                live.index,
                held,
            )
            return self._finish(live, "held after a rollback")
        wanted = locate(self._options.model or self._settings.model)
        logger.info("Wanted is %s (%s), live is %s", wanted.name, wanted.fingerprint, live.name)
        if self._has(live, wanted):
            if not self._options.dry_run:
                self._settle(live, held)
            return self._update(live, wanted)
        if self._options.dry_run:
            groups = build.sources_of(live, self._options, prune_max_ratio=1.0)
            found = build.candidate(self._store, live, wanted, rebuild=self._options.rebuild)
            how = f"go on with {found.name} ({found.metadata.state})" if found else "build a new collection"
            return self._foretell(f"{how} for model {wanted.name} ({wanted.fingerprint})", live, groups, found)
        with Lease(self._store.control(live.index), self._report.run_id) as lease:
            promotion.settle(self._store, live.index)
            live = live_of(self._store, live.index)
            # Another job may have been at it until the lease was free.
            return self._update(live, wanted) if self._has(live, wanted) else self._change(lease, live, wanted)

    def _update(self, live: Collection, wanted: Checkpoint) -> int:
        """The index has the wanted model: new, changed and gone objects alone."""
        if self._options.when_model_changed:
            logger.info("The index has model %s already; nothing to do", wanted.name)
            return self._finish(live, "nothing to do: the model has not changed")
        groups = build.sources_of(live, self._options, prune_max_ratio=self._options.prune_max_ratio)
        if self._options.dry_run:
            return self._foretell("bring the live collection up to date", live, groups, live)
        with self._report.phase("preflight"):
            self._check(groups)
        with self._report.phase("update"):
            passes = [self._work.sync(each, self._store.collections.refresh(live), wanted) for each in groups]
            self._report.round(passes)
        self._store.collections.update_metadata(live.name, counts=self._report.counts)
        return self._finish(live, "brought up to date", self._too_many_failures())

    def _change(self, lease: Lease, live: Collection, wanted: Checkpoint) -> int:
        """Another model, or a rebuild: a new collection beside the live one, and the switch once it is proven."""
        store, report, options = self._store, self._report, self._options

        def groups() -> Sequence[IndexOptions]:
            # Runs of jobs/index.py may bring sources to the live collection meanwhile. Nothing is lost by pruning a
            # collection that nobody searches; that the index does not shrink is looked at before the switch.
            return build.sources_of(store.collections.refresh(live), options, prune_max_ratio=1.0)

        with report.phase("preflight"):
            questions = self._questions(live)
            self._check(groups())
            live_model = _still_there(live)
            build.check_room(store, live, wanted)
        with report.phase("build"):
            target = build.open_target(store, lease, live, wanted, rebuild=options.rebuild)
            passes = build.fill(store, self._work, lease, target, wanted, groups, report.round)
            store.collections.update_metadata(target.name, counts=report.counts)
        with report.phase("verify"):
            bounds = Bounds(options.max_failure_ratio, options.prune_max_ratio, options.max_quality_loss)
            sides = Sides(live, store.collections.refresh(target), wanted, live_model)
            checks = verify(store, self._work, sides, passes, questions, bounds, report.run_id)
            report.verified(checks)
        if unfit := [f"{each.name} is {each.figure}, wanted {each.wanted}" for each in checks if each.passed is False]:
            return self._finish(
                live,
                "refused: the old index stays live",
                f"{target.name} did not pass: {'; '.join(unfit)}. {live.name} stays live, untouched. Another run "
                "catches up and verifies again; --rebuild begins anew.",
                refused=target.name,
            )
        with report.phase("switch"):
            promotion.swap(store, lease, target)
            if options.model is not None:
                hold.lift(store.control(live.index))
            announcement.tell(self._settings.server, target.name)
        with report.phase("catch up"):
            now = [self._work.sync(each, store.collections.refresh(target), wanted) for each in groups()]
            report.round(now)
        with report.phase("clean up"):
            grace_s = self._settings.grace_s + self._settings.refresh_s
            dropped = promotion.drop_old(store, lease, live.index, keep=options.keep, grace_s=grace_s)
        if options.model not in (None, self._settings.model):
            logger.warning(
                "Runs without --model aim at VIEWFINDER_MODEL, which is %r: set it to %r, or they change it back.",
                self._settings.model,
                options.model,
            )
        return self._finish(
            store.collections.refresh(target), f"switched from {live.name}", former=live.name, dropped=dropped
        )

    def _settle(self, live: Collection, held: hold.Hold | None) -> None:
        """Put right what a job left that was killed right after it had moved the alias."""
        if held and held.collection != live.name:  # --model was given, or a hold would have ended this run
            hold.lift(self._store.control(live.index))
        if promotion.settled(self._store, live):
            return
        # Another job that holds the lease moves the alias itself, and puts the states right when it has.
        with suppress(StoreBusyError), Lease(self._store.control(live.index), self._report.run_id):
            promotion.settle(self._store, live.index)

    def _has(self, live: Collection, wanted: Checkpoint) -> bool:
        return live.metadata.fingerprint == wanted.fingerprint and not self._options.rebuild

    def _check(self, groups: Sequence[IndexOptions]) -> None:
        """Each source listed and one object of each read, here and on a worker, before anything is built."""
        for each in groups:
            preflight.check_sources(each, self._reach)
        self._work.check([source for each in groups for source in each.sources])

    def _questions(self, live: Collection) -> Sequence[golden.Question]:
        if self._options.evaluation_set is None:
            return ()
        with Objects(self._reach.access) as objects:
            questions = golden.load(self._options.evaluation_set, objects)
        relevant = sorted({id_ for question in questions for id_ in question.relevant})
        if not self._store.points.states(live, relevant):
            raise ConfigurationError(
                f"The golden set {self._options.evaluation_set!r} names {len(relevant)} pictures, none of which is in "
                f"{live.name!r}: it could not tell a good model from a bad one. Its URIs must be those of the index."
            )
        return questions

    def _too_many_failures(self) -> str | None:
        listed, failed = self._report.counts.get("listed", 0), self._report.counts.get("failed", 0)
        if listed and failed / listed > self._options.max_failure_ratio:
            return (
                f"{failed:,} of {listed:,} objects failed, more than --max-failure-ratio "
                f"{self._options.max_failure_ratio:g} allows. All others are indexed; failures.jsonl names each."
            )
        return None

    def _foretell(self, what: str, live: Collection, groups: Sequence[IndexOptions], target: Collection | None) -> int:
        """Say what a run would do, in numbers; `target` is what there is already of the collection to be filled."""
        plans = [self._work.plan(each, target) for each in groups]
        actions = sum((Counter(each) for each, _ in plans), Counter[str]())
        gone = [each for _, each in plans if each is not None]
        console = stdout()
        console.print(f"Would {what}; live is {live.name}.")
        for each in groups:
            captions = f" with captions {each.captions}" if each.captions else ""
            console.print(f"  from {', '.join(each.sources)}{captions}")
        return self._report.dry_run(actions, sum(gone, Gone(0, 0, 0)) if gone else None)

    def _finish(self, live: Collection, outcome: str, problem: str | None = None, **more: object) -> int:
        if self._options.dry_run:
            stdout().print(f"{outcome}; nothing was changed.")
            return 0
        return self._report.done(self._store, live, outcome=outcome, problem=problem, **more)


def _still_there(live: Collection) -> Checkpoint | None:
    """The model of the live collection, which only a golden set needs; None where it cannot be had any more."""
    try:
        return locate(live.metadata.model_name, expect=live.metadata.fingerprint)
    except (UnknownModelError, ModelMismatchError) as error:
        logger.warning("The live model cannot be asked for comparison: %s", error)
        return None
