"""Photos to index, and what an engine has stored of them."""

from collections.abc import Callable
from pathlib import Path

from viewfinder import ImageSearchEngine
from viewfinder.store import Record, StoreAddress, open_local

NAMES = ["a.jpg", "b.jpg", "deep/c d.jpg"]

Open = Callable[..., ImageSearchEngine]


def stored(data_dir: Path) -> dict[str, Record]:
    """Return all points by file name."""
    with open_local(StoreAddress(data_dir=data_dir)) as store:
        live = store.collections.live("images")
        assert live is not None
        return {record.payload["uri"].rpartition("/")[2]: record for record in store.points.iterate(live)}
