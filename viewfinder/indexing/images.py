"""Index given objects now: through the stages and the records of a run, without a listing of their sources."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.indexing.compare import version_of_state
from viewfinder.indexing.connections import objects_of
from viewfinder.indexing.executor import Executor
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.report import new_run_id
from viewfinder.indexing.rows import paths_table, read_part, rows_of
from viewfinder.indexing.run import Indexer, ListedSources, delete_taken_down, promoted_since
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess, ObjectInfo
from viewfinder.sources.caption_files import CaptionFile, CaptionFiles
from viewfinder.sources.caption_tables import CaptionRow
from viewfinder.sources.caption_types import FieldSurvey, FieldTypes
from viewfinder.sources.captions import Captions
from viewfinder.sources.manifest import manifest_of_known
from viewfinder.sources.patterns import Patterns, Source
from viewfinder.sources.skips import CONTENT_SKIPS
from viewfinder.sources.uris import point_id
from viewfinder.sources.versions import is_same
from viewfinder.store import Collection, Failure, PointState, Store
from viewfinder.store.recorded import SourceRecord
from viewfinder.store.takedowns import taken_down

# The reason of an object that no recorded source contains.
OUTSIDE = "outside_sources"

Outcome = Literal["indexed", "unchanged", "skipped", "failed"]


class FieldTypeError(ConfigurationError):
    """A field of a caption has another type than in the index."""


@dataclass(frozen=True)
class GivenImage:
    """An object by its canonical URI. `caption` is its row of a captions file; None leaves the caption as it is."""

    uri: str
    caption: CaptionRow | None = None


@dataclass(frozen=True)
class ImageOutcome:
    """The outcome of one object; `reason` and `message` say why it was skipped or has failed."""

    outcome: Outcome
    reason: str | None = None
    message: str | None = None


_INDEXED, _UNCHANGED = ImageOutcome("indexed"), ImageOutcome("unchanged")


@dataclass(frozen=True)
class IndexedObjects:
    """The outcomes by URI, and the run and the live collection that they are about."""

    run_id: str | None  # None if no object could be looked at
    collection: Collection
    outcomes: Mapping[str, ImageOutcome]
    warnings: tuple[str, ...] = ()


@dataclass
class ImageIndexer:
    """Brings given objects of recorded sources up to date in the live collection, as the next run would.

    `checkpoint_of` returns the model of a collection. Objects below `uploads` are of that source, which is recorded
    when it is first used. `captions` are those of all images of a request that is carried out in several parts: its
    fields have one type.
    """

    settings: Settings
    store: Store
    executor: Executor
    access: ObjectAccess
    checkpoint_of: Callable[[Collection], Checkpoint]
    uploads: str | None = None
    run_id: str = field(default_factory=new_run_id)
    captions: Sequence[CaptionRow] = ()
    _has_run: bool = False

    def index(self, images: Iterable[GivenImage]) -> IndexedObjects:
        """Index the objects, and wait until a search finds them; of equal URIs the last one counts.

        Raises `ConfigurationError` if there is no index, `FieldTypeError` for a caption that does not fit its fields,
        and `StoreError`.
        """
        given = {each.uri: each for each in images}
        outcomes: dict[str, ImageOutcome] = {}
        collection = self.store.collections.require_live(self.settings.index)
        warnings = self._sync(collection, given, outcomes)
        for live in promoted_since(self.store, collection):
            collection, warnings = live, self._sync(live, given, outcomes)
        return IndexedObjects(self.run_id if self._has_run else None, collection, outcomes, tuple(warnings))

    def _sync(
        self, collection: Collection, given: Mapping[str, GivenImage], outcomes: dict[str, ImageOutcome]
    ) -> list[str]:
        """Run the stages over the objects and note their outcomes; returns warnings."""
        sources = self._sources_of(collection, given)
        outcomes |= {uri: _outside(uri) for uri in given if not sources[uri]}
        # Not before: others must not find out what there is outside of the sources.
        wanted = self._stat([uri for uri in given if sources[uri]], outcomes)
        if not wanted:
            return []
        self._has_run = True
        rows = [row for uri in wanted if (row := given[uri].caption) is not None]
        types = field_types(collection, self.captions or rows)
        with tempfile.TemporaryDirectory(prefix="viewfinder-") as directory, _captions_of(rows, types) as captions:
            objects = [(info, sources[uri]) for uri, info in wanted.items()]
            new = self._new_sources(collection, sources)
            manifest = manifest_of_known(objects, Path(directory), captions=captions, new=new)
            indexer = Indexer(
                self.settings, self.store, self.executor, self.run_id, Path(directory), access=self.access
            )
            options = IndexOptions(sources=(), check_takedowns=False)
            indexer.sync(options, collection, self.checkpoint_of(collection), ListedSources(manifest))
            skips = {
                row["uri"]: row["skip"] for part in read_part(paths_table(manifest.paths)) for row in rows_of(part)
            }
        delete_taken_down(self.store, collection, {point_id(uri): uri for uri in wanted})
        now = self._outcomes(collection, wanted, skips)
        # The re-index that has made this collection live may have found the object that this run indexed before.
        indexed = {uri for uri in now if outcomes.get(uri) == _INDEXED and now[uri] == _UNCHANGED}
        outcomes |= now | dict.fromkeys(indexed, _INDEXED)
        known = self.store.collections.refresh(collection).recorded.fields
        unknown = [name for name in types.kinds if name not in known]
        return [f"No filter knows these fields: {', '.join(unknown[:10])}."] if unknown else []

    def _stat(self, uris: Sequence[str], outcomes: dict[str, ImageOutcome]) -> dict[str, ObjectInfo]:
        """The properties of the objects; notes the failures of those that cannot be reached.

        These are not recorded with the index: nothing says that there ever was such an object.
        """
        objects = objects_of(self.access)
        infos: dict[str, ObjectInfo] = {}

        def stat(uri: str) -> None:
            try:
                infos[uri] = objects.stat(uri)
            except ObjectError as error:
                outcomes[uri] = ImageOutcome("failed", error.reason, error.message)

        with ThreadPoolExecutor(self.settings.fetch_threads) as pool:
            list(pool.map(stat, uris))
        return infos

    def _sources_of(self, collection: Collection, uris: Iterable[str]) -> dict[str, list[Source]]:
        """The recorded sources that contain each object.

        Those are the prefixes that list it, and the tables of URIs of its existing point, which may take minutes to
        read.
        """
        uris = list(uris)
        recorded = dict(collection.recorded.sources)
        if self.uploads is not None:
            recorded.setdefault(self.uploads, SourceRecord(self.uploads))
        known = {each.uri: Source(each.uri, Patterns(each.include, each.exclude)) for each in recorded.values()}
        states = self.store.points.states(collection, list(map(point_id, uris)))
        found = {}
        for uri in uris:
            state = states.get(point_id(uri))
            before = set(state.sources if state else ())
            found[uri] = [
                each for each in known.values() if (each.uri in before if each.is_manifest else each.holds(uri))
            ]
        return found

    def _new_sources(self, collection: Collection, sources: Mapping[str, Sequence[Source]]) -> list[str]:
        """The source of uploads, if it is in use and not recorded yet: then a re-index reads it too."""
        used = {each.uri for found in sources.values() for each in found}
        return [uri for uri in used if uri not in collection.recorded.sources]

    def _outcomes(
        self, collection: Collection, infos: Mapping[str, ObjectInfo], skips: Mapping[str, str | None]
    ) -> dict[str, ImageOutcome]:
        """The outcomes by what the store holds after the run, which is what a search finds."""
        control = self.store.control(collection.index)
        ids = {uri: point_id(uri) for uri in infos}
        excluded = taken_down(control, {id_: uri for uri, id_ in ids.items()})
        failures = control.failures(list(ids.values()))
        states = self.store.points.states(collection, list(ids.values()))
        return {
            uri: ImageOutcome("skipped", "taken_down")
            if ids[uri] in excluded
            else self._outcome(info, skips[uri], states.get(ids[uri]), failures.get(ids[uri]))
            for uri, info in infos.items()
        }

    def _outcome(
        self, info: ObjectInfo, skip: str | None, state: PointState | None, failure: Failure | None
    ) -> ImageOutcome:
        if state is not None and state.run_id == self.run_id:
            return _INDEXED
        is_current = state is not None and is_same(version_of_state(state), info.version)
        if failure is not None and (failure.run_id == self.run_id or not is_current):
            outcome: Outcome = "skipped" if failure.reason in CONTENT_SKIPS else "failed"
            return ImageOutcome(outcome, failure.reason, failure.message)
        if skip is not None and not is_current:
            return ImageOutcome("skipped", skip)
        if state is not None:
            return _UNCHANGED
        return ImageOutcome("failed", "changed", "Another program has deleted it from the index meanwhile.")


def _outside(uri: str) -> ImageOutcome:
    return ImageOutcome(
        "failed",
        OUTSIDE,
        f"{uri!r} is in no source of the index ('viewfinder sources list'). Index its source with 'viewfinder index'.",
    )


def field_types(collection: Collection, rows: Iterable[CaptionRow]) -> FieldTypes:
    """The types of the fields of these captions. Raises `FieldTypeError` where the index has another type."""
    survey = FieldSurvey()
    for row in rows:
        survey.add(row.meta)
    known = collection.recorded.fields
    types = FieldTypes({"this request": survey}, known)
    for name, kind in types.kinds.items():
        if kind != known.get(name, kind):
            # A run would change the type of the whole field, with all captions files at hand.
            raise FieldTypeError(
                f"{name}: the values are {survey.kinds[name]}, but the index has {known[name]} in this field. Change "
                "the values, or the type of the field by 'viewfinder index --captions'."
            )
    return types


@contextmanager
def _captions_of(rows: Sequence[CaptionRow], types: FieldTypes) -> Iterator[CaptionFiles | None]:
    if not rows:
        yield None
        return
    with Captions.of_rows(rows, types) as captions:
        yield CaptionFiles([CaptionFile(captions)], types.kinds)
