"""Payload fields from a captions file: record them with the collection and index them before data is written."""

import logging

import pyarrow.compute as pc
import pyarrow.parquet as pq

from viewfinder.sources.captions import parse_details
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Store
from viewfinder.store.fields import Fields

logger = logging.getLogger("viewfinder.index")

_ROWS = 50_000
# Details without metadata contain this text. Most files have no metadata, so their rows need no parsing.
_NO_META = '"meta":{}'


def record_fields(store: Store, collection: Collection, manifest: Manifest) -> dict[str, str]:
    """Record and index every `meta.NAME` of the manifest's captions for filters; returns all kinds by name."""
    known = collection.recorded.fields
    fields = _fields_of(manifest).merged(known)
    changed = {name: kind for name, kind in fields.items() if known.get(name) != kind}
    if changed:
        logger.info("New filter fields: %s", ", ".join(f"{name} ({kind})" for name, kind in changed.items()))
        store.collections.add_fields(collection, changed)
    return fields


def _fields_of(manifest: Manifest) -> Fields:
    fields = Fields()
    for path in manifest.paths if manifest.with_captions else ():
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=["caption_details"]):
            details = batch.column(0)
            for record in details.filter(pc.invert(pc.match_substring(details, _NO_META))).to_pylist():
                fields.add(parse_details(record)["meta"])
    return fields
