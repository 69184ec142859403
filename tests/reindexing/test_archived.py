"""A model change when objects have been archived since they were indexed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.indexing import RecordingIndexer
from tests.fixtures.options import reindex_options
from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import encoded_image
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.report import Report
from viewfinder.indexing.run import ListedSources
from viewfinder.reindexing.report import ReindexResult
from viewfinder.reindexing.workflow import reindex
from viewfinder.settings import Settings
from viewfinder.store import Collection
from viewfinder.store.recorded import Recorded

pytestmark = pytest.mark.slow

ARCHIVED = NAMES[:2]


class ArchivingIndexer(RecordingIndexer):
    """An indexer whose listings show some objects as archived, and not which of them have been restored."""

    found_restored: Sequence[str] = ()

    @contextmanager
    def listed(
        self, options: IndexOptions, collection: Collection | None, recorded: Callable[[], Recorded] | None = None
    ) -> Iterator[ListedSources]:
        with super().listed(options, collection, recorded) as listed:
            for path in listed.manifest.paths:
                _archive(path)
            yield listed

    def restored(self, uris: Sequence[str]) -> set[str]:
        return {uri for uri in uris if uri.rpartition("/")[2] in self.found_restored}


def _archive(path: Path) -> None:
    table = pq.read_table(path)
    skips = ["archived" if key in ARCHIVED else None for key in table["key"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("skip"), "skip", pa.array(skips, pa.string())), path)


def _reindex(index: Index, *flags: str, found_restored: Sequence[str] = (), **more: Any) -> ReindexResult:
    world, options = index.world, reindex_options(flags)
    settings = Settings.load(index=options.index)
    report = Report.open(settings, world.access, str(world.directory / f"report-{len(flags)}"))
    workspace = world.directory / "workspace"
    indexer = ArchivingIndexer(
        world.settings(), index.store, world.executor, report.run_id, workspace, world.access, **more
    )
    indexer.found_restored = found_restored
    with report:
        return reindex(options, settings, index.store, indexer, report)


def test_a_model_change_that_would_drop_archived_images_is_refused_unless_allowed(index: Index) -> None:
    """Archived objects failed on every run, and every model change was refused for them."""
    before = index.live
    result = _reindex(index)
    assert "2 archived images" in str(result.problem)
    assert "--allow-loss 2." in str(result.problem)
    assert index.live == before
    assert result.refused in [each.name for each in index.store.collections.all(index.world.index)]

    result = _reindex(index, "--allow-loss", "1")
    assert "--allow-loss 1 is the limit" in str(result.problem)
    assert (result.checks, result.counts) == ((), {}), "refused by the listing, before anything was encoded"

    result = _reindex(index, "--allow-loss", "2", "--max-failure-ratio", "0")
    assert result.problem is None
    assert set(index.world.points) == set(NAMES) - set(ARCHIVED)
    assert result.counts == {"listed": 12, "unchanged": 0, "indexed": 10, "skipped": 2, "failed": 0, "pruned": 0}
    assert result.skipped["archived"] == 2


def test_an_older_image_of_a_retired_collection_does_not_replace_an_archived_one(index: Index) -> None:
    assert index.reindex() == 0
    (index.world.bucket / ARCHIVED[0]).write_bytes(encoded_image(99, (40, 40)))
    index.world.model = index.models[1]
    index.world.sync()
    before = index.live
    result = _reindex(index, "--model", index.models[0])
    assert "1 archived image of" in str(result.problem)
    assert index.live.name == before.name
    assert _reindex(index, "--model", index.models[0], "--allow-loss", "1").problem is None


def test_archived_objects_that_have_been_restored_are_no_loss(index: Index) -> None:
    """Restoring them, as the message says, did not help where the listing does not show it."""
    result = _reindex(index, found_restored=ARCHIVED[:1])
    assert "1 archived image " in str(result.problem)
    assert repr(f"{index.world.source}/{ARCHIVED[1]}") in str(result.problem)
