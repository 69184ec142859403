"""The rows that the stages hand on, as Arrow tables.

One row is one listed object; `action` says what is still to be done with it:

    index      fetch, decode and encode the picture, and its caption if it has one
    caption    the picture is unchanged, its caption is not: encode and write the caption alone
    sources    nothing changed, but the point does not know yet that this source holds it
    unchanged  nothing to do; such rows are folded into one row a batch, `count` says how many it stands for
    withheld   taken down: neither fetched nor written; folded likewise
    failed     `stage`, `reason` and `message` say why

Rows never disappear: the counts that the sink returns add up to what was listed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MANIFEST_ROWS = 10_000
FAILURE_FIELDS = ("stage", "reason", "message")

SCHEMA: pa.Schema = pa.schema(
    {
        "id": pa.string(),
        "action": pa.string(),
        "count": pa.int64(),
        "exists": pa.bool_(),
        "had_failure": pa.bool_(),
        "uri": pa.string(),
        "bucket": pa.string(),
        "key": pa.string(),
        "size": pa.int64(),
        "etag": pa.string(),
        "last_modified": pa.string(),
        "sources": pa.list_(pa.string()),
        "caption": pa.string(),
        "caption_applies": pa.bool_(),
        "pixels": pa.large_binary(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "image_vector": pa.binary(),
        "caption_vector": pa.binary(),
        "caption_cut": pa.int32(),
        "stage": pa.string(),
        "reason": pa.string(),
        "message": pa.string(),
        "permanent": pa.bool_(),
        # Busy seconds of the stages, on the first row of each batch.
        "compare_s": pa.float64(),
        "fetch_s": pa.float64(),
        "decode_s": pa.float64(),
        "encode_s": pa.float64(),
    }
)

ACTIONS = ("index", "caption", "sources", "unchanged", "withheld", "failed")

Row = dict[str, Any]


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Rows in the columns of `SCHEMA`; what a row lacks is null."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def read_part(paths: pa.Table) -> Iterator[pa.Table]:
    """The rows of manifest files, `MANIFEST_ROWS` at a time."""
    for path in paths["path"].to_pylist():
        for batch in pq.ParquetFile(str(path)).iter_batches(MANIFEST_ROWS):
            yield pa.Table.from_batches([batch])
