"""Rendering of the status of an index."""

from rich.console import Console

from viewfinder.cli.status_table import notes, table
from viewfinder.reindexing.rollback import RollbackPause
from viewfinder.reindexing.status import CollectionStatus, IndexStatus
from viewfinder.reindexing.upgrade_lock import LockHolder

COLLECTION = CollectionStatus("images__a__0001", "ViT::a", "f00d", "live", 1234, "2026-01-01T00:00:00", 5_000_000, True)


def test_each_collection_has_a_row() -> None:
    console = Console(width=200, record=True)
    with console.capture() as output:
        console.print(table(IndexStatus("images", (COLLECTION,), None, None)))
    for part in ("images__a__0001", "ViT::a", "live", "1,234", "~5 MB", "yes"):
        assert part in output.get()


def test_a_plain_index_needs_no_notes() -> None:
    assert list(notes(IndexStatus("images", (COLLECTION,), None, None))) == []


def test_a_pause_and_a_lock_are_noted() -> None:
    pause = RollbackPause("images__a__0001", "images__b__0002", "2026-01-01T00:00:00+00:00")
    holder = LockHolder("token", "run-7", "host", 1, "2026-01-01T00:02:00+00:00")
    paused, locked = notes(IndexStatus("images", (COLLECTION,), pause, holder))
    assert paused.startswith("Scheduled runs are paused since 2026-01-01T00:00:00+00:00")
    assert "images__b__0002" in paused
    assert "--release" in paused
    assert locked == "The index is locked by run run-7 (process 1 on host) until 2026-01-01T00:02:00+00:00."


def test_a_missing_index_is_noted() -> None:
    assert list(notes(IndexStatus("other", (), None, None))) == [
        "There is no index 'other' yet. Make it with 'viewfinder index'."
    ]
