"""Rows that Qdrant cannot store become failed objects, so that one of them does not end the run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from viewfinder.arrays import have_direction
from viewfinder.indexing.rows import Row, rows_of, table_of
from viewfinder.store.request_size import RequestLimit, point_bytes
from viewfinder.store.words import searchable

# The words of a text take up to 22 times its bytes (measured over all characters; "㌖" is six letters). Finding them
# takes about 0.1 ms, so they are not searched for in texts that are small anyway.
_MAX_GROWTH = 32


def fail_without_direction(table: pa.Table) -> pa.Table:
    """Mark the rows as failed whose vectors are not finite or are 0: cosines with them are undefined."""
    bad = set()
    for column in ("image_vector", "caption_vector"):
        cells = table[column]
        present = np.flatnonzero(cells.is_valid().to_numpy())
        if len(present):
            vectors = np.frombuffer(b"".join(cells.drop_null().to_pylist()), np.float32).reshape(len(present), -1)
            bad |= set(present[~have_direction(vectors)].tolist())
    if not bad:
        return table
    rows = rows_of(table)
    for place in bad:
        _fail_unusable(rows[place])
    return table_of(rows)


def fail_unwritable(row: Row, payload: Mapping[str, Any], language: str, limit: RequestLimit) -> None:
    """Mark a row as failed if its point would be refused, for its vectors or its size with the words of its texts.

    Not permanent: another encoder, or another captions file, may have a usable vector or a shorter caption.
    """
    if _fail_unusable(row):
        return
    numbers = sum(len(cell) // 4 for cell in (row["image_vector"], row["caption_vector"]) if cell is not None)
    size = point_bytes(payload, numbers)
    if size > limit.item_bytes // _MAX_GROWTH:
        size = point_bytes(searchable(payload, language), numbers)
    if (excess := limit.excess(size)) is not None:
        _mark_failed(row, "write", "point_too_large", f"Its caption, tags and metadata take {excess}.")


def _fail_unusable(row: Row) -> bool:
    vectors = {"image": row["image_vector"], "caption": row["caption_vector"]}
    cells = {name: np.frombuffer(cell, np.float32) for name, cell in vectors.items() if cell is not None}
    bad = [name for name, vector in cells.items() if not have_direction(vector[np.newaxis]).all()]
    if bad:
        message = f"The model's vector of the {' and the '.join(bad)} is not finite or is 0."
        _mark_failed(row, "encode", "unusable_vector", message)
    return bool(bad)


def _mark_failed(row: Row, stage: str, reason: str, message: str) -> None:
    row["action"] = "failed"
    row["stage"], row["reason"], row["message"], row["permanent"] = stage, reason, message, False
    row["image_vector"] = row["caption_vector"] = None
