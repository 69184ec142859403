"""The work of a re-index by the pipeline's own stages, one after the other in this process, without Ray."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from viewfinder.cluster.datasink import Tally, write_rows
from viewfinder.cluster.fresh_encodings import through_stages
from viewfinder.cluster.pipeline import Outcome, Pass
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import ImageLimits, Preprocess
from viewfinder.indexing.caption_fields import note_fields
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import Gone, Prune
from viewfinder.indexing.reach import Reach
from viewfinder.indexing.report import merged_sources
from viewfinder.indexing.rows import read_part
from viewfinder.indexing.run import Sync
from viewfinder.indexing.stages import Compare, Encode, FetchAndDecode
from viewfinder.indexing.takedowns import sweep
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder, Vectors
from viewfinder.settings import Settings
from viewfinder.sources.captions import Captions
from viewfinder.sources.manifest import Manifest, write_manifest
from viewfinder.sources.objects import ObjectAccess, Objects
from viewfinder.store import Collection, Record, Store

LIMITS = ImageLimits(10**7, 10**7)
BOUNDS: dict[str, Any] = {"timeout_s": 20, "memory_bytes": 2**31}


class Kept:
    """What is dear to make, kept as long as the tests run: decoder processes, and the encoders of models."""

    def __init__(self) -> None:
        self._known: dict[Preprocess, Decoder] = {}
        self._encoders: dict[str, Encode] = {}
        self._objects: dict[ObjectAccess, Objects] = {}

    def encode(self, checkpoint: Checkpoint) -> Encode:
        """The stage of this model, on one thread."""
        options: dict[str, Any] = {"device": "cpu", "precision": "float32", "cores": 1}
        return self._encoders.setdefault(
            checkpoint.fingerprint, Encode(checkpoint.name, checkpoint.fingerprint, **options)
        )

    def decoder(self, preprocess: Preprocess) -> Decoder:
        """The decoder for this way of preparing pictures."""
        if preprocess not in self._known:
            self._known[preprocess] = Decoder(preprocess, LIMITS, **BOUNDS)
        return self._known[preprocess]

    def objects(self, access: ObjectAccess) -> Objects:
        """The way to the objects."""
        return self._objects.setdefault(access, Objects(access))

    def close(self) -> None:
        for objects in self._objects.values():
            objects.close()
        for decoder in self._known.values():
            decoder.close()


@dataclass
class InProcess:
    """`viewfinder.cluster.executor.Work`; `meanwhile` is called with the number of each pass between its listing and its writing."""

    reach: Reach
    store: Store
    directory: Path
    run_id: str
    kept: Kept
    meanwhile: Callable[[int], None] = lambda number: None
    passes: list[Pass] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def check(self, sources: Sequence[str]) -> None:
        self.checked += sources

    def plan(self, options: IndexOptions, collection: Collection | None) -> tuple[Mapping[str, int], Gone | None]:
        manifest = self._listed(options, next(self.numbers))
        return Sync(options, Settings.load({}), self.reach, self.store, collection, manifest).plan()

    def _listed(self, options: IndexOptions, number: int) -> Manifest:
        directory = self.directory / f"{self.run_id}-{number:02}"
        directory.mkdir(parents=True)
        objects = self.kept.objects(self.reach.access)
        with nullcontext() if options.captions is None else Captions.load(options.captions, objects) as captions:
            return write_manifest(
                options.sources,
                directory,
                objects,
                captions=captions,
                include=options.include,
                exclude=options.exclude,
                limit=options.max_objects,
            )

    def sync(self, options: IndexOptions, collection: Collection, checkpoint: Checkpoint) -> Pass:
        number = next(self.numbers)
        manifest = self._listed(options, number)
        prune = Prune.of(options, self.store, collection, manifest)
        sources = merged_sources(collection.metadata.sources, manifest.sources)
        self.store.collections.update_metadata(
            collection.name, sources=sources, runs=list(dict.fromkeys([*collection.metadata.runs, self.run_id]))
        )
        note_fields(self.store, collection, manifest)
        self.meanwhile(number)

        paths = pa.table({"path": [str(path) for path in manifest.paths]})
        compare = Compare(self.reach, collection, captions=options.captions is not None, prune=options.prune)
        tally = Tally()
        fetch, encode = self._stages(checkpoint)
        for rows in read_part(paths):
            table = encode(fetch(compare.with_store(rows, self.store)))
            tally += write_rows(self.store, collection, table, run_id=self.run_id, batch_size=4)
        pruned = prune.carry_out() if prune else 0
        sweep(self.store, collection)
        assert manifest.listed == tally.indexed + tally.unchanged + tally.failed
        self.passes.append(Pass(manifest, Outcome(tally, ()), pruned))
        return self.passes[-1]

    def encode_texts(self, checkpoint: Checkpoint, texts: Sequence[str]) -> Vectors:
        return Encoder.load(checkpoint, device="cpu", threads=1).encode_texts(list(texts))[0]

    def encode_pictures(self, checkpoint: Checkpoint, records: Iterable[Record]) -> dict[str, Vectors]:
        return through_stages(*self._stages(checkpoint), {each.id: each.payload for each in records})

    def _stages(self, checkpoint: Checkpoint) -> tuple[FetchAndDecode, Encode]:
        fetch = FetchAndDecode(
            self.reach.access,
            checkpoint.preprocess,
            LIMITS,
            threads=4,
            decoder=lambda: self.kept.decoder(checkpoint.preprocess),
            **BOUNDS,
        )
        return fetch, self.kept.encode(checkpoint)
