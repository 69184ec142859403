"""The fields that a captions file gives: noted with the collection, and indexed before their data comes."""

import logging

import pyarrow.compute as pc
import pyarrow.parquet as pq

from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.manifest import Manifest
from viewfinder.store import Collection, Store
from viewfinder.store.fields import Fields
from viewfinder.store.filters import field_path

logger = logging.getLogger("viewfinder.index")

_ROWS = 50_000
# How a record without such fields is spelled; so most files need no look into their records.
_WITHOUT = '"meta":{}'


def note_fields(store: Store, collection: Collection, manifest: Manifest) -> dict[str, str]:
    """Make every `meta.NAME` of the manifest's captions known to filters and fast to filter by; the kinds by name."""
    known = collection.metadata.fields
    fields = _seen(manifest).merged(known)
    changed = {name: kind for name, kind in fields.items() if known.get(name) != kind}
    for name, kind in changed.items():
        store.collections.index_field(collection, field_path(name), kind)
    if changed:
        logger.info("Fields to filter by: %s", ", ".join(f"{name} ({kind})" for name, kind in changed.items()))
        store.collections.update_metadata(collection.name, fields=fields)
    return fields


def _seen(manifest: Manifest) -> Fields:
    fields = Fields()
    for path in manifest.paths:
        for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=["caption"]):
            captions = batch.column(0)
            for record in captions.filter(pc.invert(pc.match_substring(captions, _WITHOUT))).to_pylist():
                fields.add(CaptionRecord.from_json(record).meta)
    return fields
