"""Few objects are compared by the driver, in less time than workers take to start; often that is all there is to do."""

from collections.abc import Sequence

import pyarrow as pa

from viewfinder.cluster import metrics
from viewfinder.cluster.datasink import Tally, write_rows
from viewfinder.cluster.pipeline import COMPARE_BATCH_SIZE, Outcome, Stage
from viewfinder.indexing.rows import read_part
from viewfinder.indexing.stages import Compare
from viewfinder.settings import Settings
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Store

# The driver compares so many in about a second.
FEW = 20_000


def compared(manifest: Manifest, compare: Compare, store: Store) -> list[pa.Table] | None:
    """The rows that `compare` makes of the listed objects; None where they are many, which workers compare faster."""
    if manifest.listed > FEW:
        return None
    paths = pa.table({"path": [str(path) for path in manifest.paths]})
    return [
        compare.with_store(rows.slice(start, COMPARE_BATCH_SIZE), store)
        for rows in read_part(paths)
        for start in range(0, len(rows), COMPARE_BATCH_SIZE)
    ]


def suffices(tables: Sequence[pa.Table]) -> bool:
    """Whether none of these rows has something to fetch or to encode."""
    return not any(action in ("index", "caption") for table in tables for action in table["action"].to_pylist())


def write(store: Store, collection: Collection, tables: Sequence[pa.Table], settings: Settings, run_id: str) -> Outcome:
    """Carry out what rows ask for that need no worker: known failures, further sources, counts."""
    total = Tally()
    for table in tables:
        tally = write_rows(store, collection, table, run_id=run_id, batch_size=settings.write_batch_size)
        metrics.of(collection.index).block(tally, table)
        total += tally
    objects = total.unchanged + total.failed
    return Outcome(total, [Stage("compare", objects, total.compare_s, 1), Stage("write", 0, total.write_s, 1)])
