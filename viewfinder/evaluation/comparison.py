"""Measure quality and speed of one collection, or compare two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viewfinder.arrays import Vectors
from viewfinder.errors import ConfigurationError
from viewfinder.evaluation.evaluation_set import LabelledQuery, Quality, as_stored, load_evaluation_set
from viewfinder.evaluation.latency import search_times_ms
from viewfinder.evaluation.options import EvaluateOptions
from viewfinder.evaluation.recall import approximate_recall, measure_quality, shared_captions
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.store import Collection, Store

CURVE_DEPTH = 50
PERCENTILES = (50, 95, 99)
_TIMED = 200


@dataclass(frozen=True)
class CollectionFigures:
    """Measurements of one collection. `approximate_recall` is recall@10 against exact search."""

    collection: str
    model: str
    points: int
    dimension: int
    quality: Quality
    approximate_recall: float
    times_ms: Sequence[float]

    def percentile_ms(self, percent: int) -> float:
        """Return the time within which `percent` of the searches were answered."""
        return float(np.percentile(self.times_ms, percent))

    def as_record(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "collection": self.collection,
            "model": self.model,
            "points": self.points,
            "dimension": self.dimension,
            "queries": self.quality.queries,
            "recall": {str(depth): round(value, 5) for depth, value in self.quality.recall.items()},
            "mrr": round(self.quality.mrr, 5),
            "ndcg": round(self.quality.ndcg, 5),
            "approximate_recall": self.approximate_recall,
            "query_ms": {f"p{percent}": round(self.percentile_ms(percent), 3) for percent in PERCENTILES},
        }


@dataclass(frozen=True)
class Evaluation:
    """The figures of each collection, in the order given."""

    collections: Sequence[CollectionFigures]

    def as_record(self) -> list[dict[str, Any]]:
        """Return the content of `evaluation.json`."""
        return [figures.as_record() for figures in self.collections]


def evaluate(options: EvaluateOptions, settings: Settings, store: Store) -> Evaluation:
    """Measure the chosen collections; raises `ConfigurationError` if there are none, or no queries."""
    collections = _choose(store, settings.index, options.collections)
    queries, vectors = _load_queries(store, collections, options.evaluation_set, settings)
    times = search_times_ms(store, collections, vectors, count=_TIMED)
    return Evaluation(
        [
            CollectionFigures(
                collection=collection.name,
                model=collection.metadata.model_name,
                points=store.points.count(collection),
                dimension=collection.metadata.dimension,
                quality=measure_quality(store, collection, queries, of_model, range(1, CURVE_DEPTH + 1)),
                approximate_recall=approximate_recall(store, collection, of_model),
                times_ms=times_ms,
            )
            for collection, of_model, times_ms in zip(collections, vectors, times, strict=True)
        ]
    )


def _choose(store: Store, index: str, names: Sequence[str]) -> list[Collection]:
    if not names:
        return [store.collections.require_live(index)]
    known = {each.name: each for each in store.collections.all(index)}
    if missing := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"Index {index!r} has no collection {missing[0]!r}. It has: {', '.join(known) or 'none'}."
        )
    return [known[name] for name in names]


def _load_queries(
    store: Store, collections: Sequence[Collection], evaluation_set: str | None, settings: Settings
) -> tuple[Sequence[LabelledQuery], list[Vectors]]:
    """Return the queries, and their vectors (float32 [N, D]) by the model of each collection."""
    if evaluation_set is not None:
        with Objects(ObjectAccess.of(settings)) as objects:
            queries = load_evaluation_set(evaluation_set, objects)
        queries = as_stored(
            queries, lambda ids: {id_ for each in collections for id_ in store.points.states(each, ids)}
        )
        texts = [query.text for query in queries]
        return queries, [_encode(texts, collection, settings) for collection in collections]
    captions = shared_captions(store, collections[0], collections[-1])
    if not captions.queries:
        raise ConfigurationError(
            "The collections have no captions to search with. Pass a file of queries with known answers: "
            "--evaluation-set FILE"
        )
    return captions.queries, list(captions.vectors[: len(collections)])


def _encode(texts: list[str], collection: Collection, settings: Settings) -> Vectors:
    made_by = collection.metadata
    checkpoint = locate(made_by.model_name, expect=made_by.fingerprint, revisions=made_by.revisions, exported=True)
    encoder = Encoder.load(
        checkpoint,
        device=settings.device,
        precision=settings.precision,
        runtime=settings.runtime,
        export=True,
        towers=["text"],
    )
    return encoder.encode_texts(texts)[0]
