"""Rendering of the status of an index."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from viewfinder.reindexing.status import IndexStatus, format_bytes


def table(status: IndexStatus) -> Table:
    """Return a table of the collections."""
    made = Table("collection", "model", "state", "points", "built", "size", "live", box=SIMPLE_HEAD)
    for each in status.collections:
        made.add_row(
            each.name,
            each.model,
            each.state,
            f"{each.points:,}",
            each.built_at,
            f"~{format_bytes(each.bytes)}",
            "yes" if each.live else "",
        )
    return made


def notes(status: IndexStatus) -> Iterator[str]:
    """Yield one line for each further thing to know."""
    if not status.collections:
        yield f"There is no index {status.index!r} yet. Make it with 'viewfinder index'."
    if status.rollback_pause:
        yield f"Scheduled runs are paused {status.rollback_pause}. To resume them: viewfinder reindex --release"
    if status.locked_by:
        yield f"The index is locked by {status.locked_by}."
