"""One run: list → compare → fetch, decode, encode, write → prune → report.

The index job makes one run over its sources; a re-index repeats runs until one finds no changes.
"""

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from viewfinder.arrays import Vectors
from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.accounting import Outcome, RunResult, Stage, Tally
from viewfinder.indexing.caption_fields import record_fields
from viewfinder.indexing.captions_prune import CaptionsPrune
from viewfinder.indexing.compare import Compare, count_actions, count_to_encode
from viewfinder.indexing.executor import Executor, IndexJob, compare_all
from viewfinder.indexing.failures import deciders
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.points_before import PointsBefore
from viewfinder.indexing.preflight import choose_model, model_of, open_collection, reachable
from viewfinder.indexing.progress import ListingProgress, NoProgress, Progress
from viewfinder.indexing.prune import Prune, PrunePlan, PruneScope
from viewfinder.indexing.report import IndexPlan, Report, Summary
from viewfinder.indexing.rows import RowFiles
from viewfinder.indexing.running import begin, end
from viewfinder.indexing.write import write_rows
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.caption_files import CaptionFiles
from viewfinder.sources.manifest import Manifest, write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.patterns import Patterns, Source
from viewfinder.sources.uris import source_uri, spellings
from viewfinder.store import Collection, Record, Store
from viewfinder.store.baselines import unrelated_texts, update_baselines
from viewfinder.store.recorded import Recorded, SourceRecord
from viewfinder.store.takedowns import points_taken_down, taken_down
from viewfinder.wording import counted

logger = logging.getLogger("viewfinder.index")

# This process compares this many objects in about a second, faster than workers start.
COMPARED_HERE = 20_000
# Loading a model takes seconds. A cluster without room for it must not block a run that is otherwise complete.
QUERIES_TIMEOUT_S = 120.0
_TAKEDOWNS_PER_CHECK = 1000

# Lists the sources of the options into a manifest in the directory.
ListSources = Callable[[IndexOptions, Path], Manifest]


@dataclass(frozen=True)
class ListedSources:
    """The manifest of a run, and what the collection had when the listing began: its records, the points to prune."""

    manifest: Manifest
    before: PointsBefore | None = None
    recorded: Recorded = field(default_factory=Recorded)


def index(
    options: IndexOptions,
    settings: Settings,
    store: Store,
    executor: Executor,
    *,
    access: ObjectAccess | None = None,
    progress: Progress | None = None,
    listing: ListSources | None = None,
    report: Report | None = None,
) -> Summary | IndexPlan:
    """Bring the index up to date with the sources and write the report; with `options.dry_run` return a plan.

    `listing` replaces the listing and the check of `options.sources`. `report` is a report that the caller has already
    opened, for example before starting a cluster. Raises `ViewfinderError`.
    """
    access = access or ObjectAccess.of(settings)
    opened = (
        Report.open(settings, access, options.report, dry_run=options.dry_run)
        if report is None
        else nullcontext(report)  # closed by the caller
    )
    with opened as report, report.workspace() as workspace:
        if not options.dry_run:
            begin(report, store, settings.index)
        checkpoint = choose_model(options, settings, store)
        if listing is None:
            executor.check(options.sources, access, store)
        indexer = Indexer(
            settings, store, executor, report.run_id, workspace, access=access, progress=progress, listing=listing
        )
        with indexer.listed(options, store.collections.live(settings.index)) as listed:
            collection = open_collection(store, settings, checkpoint, create=not options.dry_run)
            if collection is None or options.dry_run:
                return indexer.plan(options, collection, listed)
            result = indexer.sync(options, collection, checkpoint, listed)
        kept = replace(options, prune=False, prune_captions=False)
        for live in promoted_since(store, collection):
            collection, result = live, indexer.sync(kept, live, model_of(live))
        summary = report.finish(store, collection, result, options.max_failure_ratio)
        end(report, store, settings.index)
        return summary


def promoted_since(store: Store, collection: Collection) -> Iterator[Collection]:
    """Yield the collections that have become live since a run wrote to `collection`, until there is no further one.

    The change of model may have read the recorded sources before the run recorded its own, and the objects before the
    run found them: a run is complete when the live collection has all that it wrote.
    """
    while (live := store.collections.live(collection.index)) is not None and live.name != collection.name:
        logger.info("%s has become the live collection during this run; bringing it up to date too", live.name)
        collection = live
        yield live


class Indexer:
    """Lists sources, plans and runs updates of a collection, and encodes images to verify them.

    `run_id` is recorded with every point and failure. Manifests are kept in `workspace` while they are needed.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        executor: Executor,
        run_id: str,
        workspace: Path,
        *,
        access: ObjectAccess | None = None,
        progress: Progress | None = None,
        listing: ListSources | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._executor = executor
        self._run_id = run_id
        self._workspace = workspace
        self._access = access or ObjectAccess.of(settings)
        self._progress = progress or NoProgress()
        self._listing = listing
        self._numbers = itertools.count(1)

    def check(self, sources: Sequence[str]) -> None:
        """List each source and read one of its objects from where the stages run; raises `SourceError`."""
        self._executor.check(sources, self._access, self._store)

    @contextmanager
    def listed(
        self, options: IndexOptions, collection: Collection | None, recorded: Callable[[], Recorded] | None = None
    ) -> Iterator[ListedSources]:
        """Yield the manifest of the sources, and delete its files afterwards. `collection` is the one to prune.

        `recorded` reads `options.recorded` again when the points to prune are known. A run records its captions files
        before it writes, so none of their captions is of a file that is not read.
        """
        # A manifest of a large bucket takes gigabytes, so only one exists at a time.
        prefix = f"manifest-{next(self._numbers)}-"
        with tempfile.TemporaryDirectory(dir=self._workspace, prefix=prefix) as directory:
            before = None
            if (options.prune or options.prune_captions) and collection is not None:
                # In every spelling: which one exists is known only after the listing.
                sources = [each for source in options.sources for each in spellings(source_uri(source))]
                before = PointsBefore.take(
                    self._store,
                    collection,
                    list(dict.fromkeys(sources)),
                    Path(directory),
                    with_texts=options.prune_captions,
                )
            if recorded is not None:
                options = replace(options, recorded=recorded())
            known = Recorded() if collection is None else collection.recorded
            if self._listing is not None:
                manifest = self._listing(options, Path(directory))
            else:
                with self._progress.listing() as progress:
                    manifest = list_objects(options, self._access, Path(directory), progress, known)
            yield ListedSources(manifest, before, known)

    def plan(
        self, options: IndexOptions, collection: Collection | None, listed: ListedSources | None = None
    ) -> IndexPlan:
        """Count the listed objects by action, and the effect of a prune. Writes nothing.

        Raises `PruneRefusedError`.
        """
        if listed is None:
            with self.listed(options, collection) as made:
                return self.plan(options, collection, made)
        manifest = listed.manifest
        prune, captions_prune = self._prunes(options, collection, listed)
        prune_plan = prune.plan() if prune else None
        if captions_prune:
            prune_plan = replace(prune_plan or PrunePlan(0, 0, 0), captions=captions_prune.plan())
        compare = self._compare(options, collection, manifest)
        compared = self._compare_here(manifest, compare)
        if compared is not None:
            actions: Mapping[str, int] = count_actions(compared)
        else:
            actions = self._executor.count_actions(manifest, compare, self._store)
        return IndexPlan(actions, prune_plan, _problems(manifest, prune))

    def sync(
        self,
        options: IndexOptions,
        collection: Collection,
        checkpoint: Checkpoint,
        listed: ListedSources | None = None,
    ) -> RunResult:
        """Bring the collection up to date with the sources. Raises `PruneRefusedError` before anything is written."""
        if listed is None:
            with self.listed(options, collection) as made:
                return self.sync(options, collection, checkpoint, made)
        store, manifest = self._store, listed.manifest
        prune, captions_prune = self._prunes(options, collection, listed)
        if prune:
            prune.plan()
        if captions_prune:
            captions_prune.plan()
        self._record_run(options, collection, manifest)
        if captions_prune:
            self._forget_captions(listed, collection)
        record_fields(store, collection, manifest.fields)
        compare = self._compare(options, collection, manifest)
        outcome = self._run(IndexJob(manifest, compare, collection, checkpoint, self._settings, self._run_id))
        pruned = prune.carry_out() if prune else 0
        pruned_captions = captions_prune.carry_out(self._run_id) if captions_prune else 0
        if options.check_takedowns:
            delete_taken_down(store, collection)
        changed = outcome.tally.indexed + pruned_captions
        update_baselines(store, collection, changed, lambda: self._encode_unrelated_texts(checkpoint))
        return RunResult(manifest, outcome, pruned, pruned_captions, _problems(manifest, prune))

    def encode_texts(self, checkpoint: Checkpoint, texts: Sequence[str]) -> Vectors:
        """Unit vectors float32 [N, D]."""
        return self._executor.encode_texts(checkpoint, self._settings, texts)

    def encode_images(self, checkpoint: Checkpoint, records: Iterable[Record]) -> dict[str, Vectors]:
        """Unit vectors (float32 [D]) by point id, of images that can be read and have not changed since indexing."""
        return self._executor.encode_images(checkpoint, self._settings, self._access, records)

    def restored(self, uris: Sequence[str]) -> set[str]:
        """Those of these objects, listed as archived, that have been restored."""
        with Objects(self._access) as objects:
            return objects.restored(uris)

    def _prunes(
        self, options: IndexOptions, collection: Collection | None, listed: ListedSources
    ) -> tuple[Prune | None, CaptionsPrune | None]:
        scope = PruneScope.of(self._store, collection, listed.manifest, listed.before)
        return Prune.of(options, scope), CaptionsPrune.of(options, scope)

    def _compare(self, options: IndexOptions, collection: Collection | None, manifest: Manifest) -> Compare:
        return Compare(
            self._access,
            self._store.address,
            collection,
            captions=manifest.with_captions,
            captions_from=options.captions_from,
            captions_over=options.captions_over,
            decided_by=deciders(
                ImageLimits.of(self._settings), "" if collection is None else collection.metadata.fingerprint
            ),
            retry_failed=options.retry_failed,
            live=None if collection is None else self._store.collections.live_beside(collection),
            stat_threads=self._settings.fetch_threads,
        )

    def _compare_here(self, manifest: Manifest, compare: Compare) -> list[pa.Table] | None:
        """The compared rows of a small manifest; None for a larger one, which the executor compares in blocks."""
        if manifest.listed > COMPARED_HERE:
            return None
        return [*compare_all(manifest, compare, self._store)]

    def _run(self, job: IndexJob) -> Outcome:
        compared = self._compare_here(job.manifest, job.compare)
        # Nothing to compare with: all objects are new, and the encoders can start at once.
        if compared is not None or not self._store.points.count(job.collection, exact=False):
            return self._run_stages(job, compared)
        logger.info("Comparing %s; encoders start afterwards, if needed", counted(job.manifest.listed, "object"))
        with tempfile.TemporaryDirectory(dir=self._workspace, prefix="compared-") as directory:
            tables = self._executor.compare(job.manifest, job.compare, self._store)
            return self._run_stages(job, RowFiles.write(tables, Path(directory)))

    def _run_stages(self, job: IndexJob, compared: Sequence[pa.Table] | RowFiles | None) -> Outcome:
        if compared is not None and not count_to_encode(compared):
            return self._write(job, compared)
        with self._progress.indexing(job.manifest.listed) as progress:
            return self._executor.index(job, self._store, compared, progress)

    def _write(self, job: IndexJob, compared: Iterable[pa.Table]) -> Outcome:
        """Write rows that need no worker: known failures, additional sources, counts."""
        total = Tally()
        for table in compared:
            size = self._settings.write_batch_size
            tally = write_rows(self._store, job.collection, table, run_id=job.run_id, batch_size=size)
            self._executor.count_written(job.collection.index, tally)
            total += tally
        return Outcome(
            total, [Stage("compare", total.objects, total.compare_s, 1), Stage("write", 0, total.write_s, 1)]
        )

    def _record_run(self, options: IndexOptions, collection: Collection, manifest: Manifest) -> None:
        """Record the run, its captions files and sources, so that a re-index can read all of them again.

        The sources come last: who finds a source at this moment finds its captions files too.
        """
        records = self._store.collections.records(collection)
        records.record_run(self._run_id)
        for each in manifest.sources:
            given = each.get("captions", ())
            for uri in given if options.recorded is None else ():
                records.record_captions(each["source"], uri)
        if options.recorded is None:
            records.record_sources(SourceRecord.of(each) for each in manifest.sources)

    def _forget_captions(self, listed: ListedSources, collection: Collection) -> None:
        """Forget the other captions files: what only they have is removed. Those recorded since the listing stay."""
        records = self._store.collections.records(collection)
        given = {each["source"]: each.get("captions", ()) for each in listed.manifest.sources}
        for each in listed.recorded.captions:
            if each.source in given and each.uri not in given[each.source]:
                records.remove_captions_as_read(each)

    def _encode_unrelated_texts(self, checkpoint: Checkpoint) -> Vectors:
        texts = unrelated_texts(checkpoint.spec.languages)
        return self._executor.encode_texts(checkpoint, self._settings, texts, timeout_s=QUERIES_TIMEOUT_S)


def list_objects(
    options: IndexOptions,
    access: ObjectAccess,
    directory: Path,
    progress: ListingProgress | None = None,
    recorded: Recorded | None = None,
) -> Manifest:
    """List the sources into a manifest in `directory`: each object once, with its caption.

    A source that is gone is left out, unless all are: then `SourceError` is raised. So is a recorded captions file.
    `recorded` is what the collection has recorded.
    """
    known = recorded or Recorded()
    with Objects(access) as objects:
        uris, gone = reachable(options.sources, objects.check)
        for reason in gone.values():
            logger.warning("A source is left out: %s", reason)
        with CaptionFiles.open(
            _captions_files(options, uris),
            objects,
            leave_out=options.recorded is not None,
            recorded=known.fields,
            recorded_files=[each.uri for each in known.captions],
            directory=directory,
        ) as captions:
            manifest = write_manifest(
                [Source(uri, _patterns(options, uri)) for uri in uris],
                directory,
                objects,
                captions=captions,
                max_objects=options.max_objects,
                progress=progress,
            )
            if options.max_objects is None:
                captions.log_unmatched()
    return replace(manifest, sources_gone=gone)


def _problems(manifest: Manifest, prune: Prune | None) -> tuple[str, ...]:
    gone = {**manifest.sources_gone, **manifest.captions_gone}
    left_out = [f"{uri!r} is left out: {reason}" for uri, reason in gone.items()]
    return (*left_out, *(prune.refused.values() if prune else ()))


def _patterns(options: IndexOptions, uri: str) -> Patterns:
    if options.recorded is None:
        return Patterns(options.include, options.exclude)
    known = options.recorded.sources
    record = next((known[each] for each in spellings(uri) if each in known), SourceRecord(uri))
    return Patterns(record.include, record.exclude)


def _captions_files(options: IndexOptions, sources: Sequence[str]) -> list[tuple[str, frozenset[str] | None]]:
    """The captions files of a run in their order, each with the sources that it describes; None: all of them."""
    if options.recorded is None:
        return [(uri, None) for uri in options.captions]
    wanted = [record for record in options.recorded.captions if record.source in sources]
    return [
        (uri, frozenset(record.source for record in records))
        for uri, records in itertools.groupby(wanted, key=lambda record: record.uri)
    ]


def delete_taken_down(store: Store, collection: Collection, only: Mapping[str, str] | None = None) -> int:
    """Delete every point that has a takedown, or of those in `only` (id: URI), and return their number.

    The compare and write stages both check for takedowns. A takedown that arrives between a writer's check and its
    write finds no point to delete, and the point is written afterwards; it is deleted here.
    """
    deleted = 0
    control = store.control(collection.index)
    ids = (id_ for id_, _ in control.all_takedowns()) if only is None else iter(taken_down(control, only))
    while page := list(itertools.islice(ids, _TAKEDOWNS_PER_CHECK)):
        if left := points_taken_down(store, collection, page):
            store.points.delete(collection, left)
            deleted += len(left)
    if deleted:
        logger.info("Deleted %s, taken down during the run", counted(deleted, "point"))
    return deleted
