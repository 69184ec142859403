"""Checks that a new collection must pass before it is promoted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from viewfinder.arrays import Vectors
from viewfinder.evaluation.evaluation_set import DEPTHS, LabelledQuery, Quality
from viewfinder.evaluation.latency import search_times_ms
from viewfinder.evaluation.recall import approximate_recall, measure_quality, search_each, shared_captions
from viewfinder.indexing.accounting import RunResult, failure_ratio
from viewfinder.indexing.run import Indexer
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.reindexing.build import count_points
from viewfinder.store import Collection, Record, Store
from viewfinder.wording import counted

SAMPLED = 64
TIMED = 50
MIN_CAPTIONS = 50  # with fewer, the figures are mostly chance
# Minimum cosine of two encodings of one image with different batch sizes, devices or precisions.
SAME_COSINE = 0.999


@dataclass(frozen=True)
class Bounds:
    """Limits on how much worse the new collection may be than the live one."""

    failure_ratio: float
    loss_ratio: float
    quality_loss: float
    # Captions are not real queries, so only a model that fails on most of them is refused.
    caption_factor: float = 0.5
    approximate_recall: float = 0.98
    slowdown: float = 2.0
    always_allowed_ms: float = 5.0  # times below it are mostly noise
    allowed_loss: int = 0  # images that only the live collection has, because their objects are archived


@dataclass(frozen=True)
class Check:
    """A measured value and its bound; `passed` is None if nothing could be measured."""

    name: str
    passed: bool | None
    value: float | None
    bound: str
    note: str = ""


@dataclass(frozen=True)
class CollectionPair:
    """The new collection and its model, and the live ones to compare with.

    `live_model` is None if it can no longer be loaded.
    """

    new: Collection
    new_model: Checkpoint
    live: Collection
    live_model: Checkpoint | None


def verify(
    store: Store,
    indexer: Indexer,
    pair: CollectionPair,
    result: RunResult,
    queries: Sequence[LabelledQuery],
    bounds: Bounds,
) -> list[Check]:
    """Run all checks. `result` is that of the last round, `queries` from the evaluation set (empty without one)."""
    sampled = store.points.sample_records(pair.new, SAMPLED, {"has_image": {"eq": True}})
    fresh = indexer.encode_images(pair.new_model, sampled)
    return [
        *_check_counts(store, pair, result, bounds),
        *_check_vectors(store, pair.new, sampled, fresh),
        *_check_quality(store, indexer, pair, queries, bounds),
        _check_approximate_recall(store, pair.new, list(fresh.values()), bounds),
        _check_search_time(store, pair, bounds),
    ]


# -- Counts ---------------------------------------------------------------------------------------------------------


def _check_counts(store: Store, pair: CollectionPair, result: RunResult, bounds: Bounds) -> list[Check]:
    new, live = pair.new, pair.live
    expected, found = result.expected, count_points(store, new, result)
    total = store.points.count(new)
    gone = result.manifest.sources_gone
    sources = [*gone, *(str(each["source"]) for each in result.manifest.sources)]
    of_others = total - store.points.count(new, {"sources": {"in": sources}})

    tally = result.outcome.tally
    failed, ratio = result.counts["failed"], failure_ratio(result.counts)
    allowed = min(tally.archived_live, bounds.allowed_loss)
    live_total = store.points.count(live)
    captions, live_captions = (store.points.count(each, {"has_caption": {"eq": True}}) for each in (new, live))
    kept = 1 - bounds.loss_ratio
    return [
        Check("points", found == expected, found, f"= {expected:,}", "listed − failed − skipped"),
        Check("points of other sources", of_others == 0, of_others, "= 0"),
        Check("sources gone", not gone, len(gone), "= 0", ", ".join(gone)),
        Check("failed", ratio <= bounds.failure_ratio, round(ratio, 5), f"≤ {bounds.failure_ratio:g}", f"{failed:,}"),
        Check("failed, but live", tally.lost == 0, tally.lost, "= 0", "images or captions that only the live one has"),
        Check(
            "archived, but live",
            tally.archived_live <= bounds.allowed_loss,
            tally.archived_live,
            f"≤ {bounds.allowed_loss:,}",
            "images that only the live collection has; restore them, or allow their loss with --allow-loss",
        ),
        Check(
            "points kept",
            total + allowed >= kept * live_total,
            total,
            f"≥ {kept * live_total - allowed:,.0f}",
            f"live: {live_total:,}",
        ),
        Check(
            "captions kept",
            captions + allowed >= kept * live_captions if live_captions else None,
            captions,
            f"≥ {max(0.0, kept * live_captions - allowed):,.0f}",
            f"live: {live_captions:,}",
        ),
    ]


# -- Vectors --------------------------------------------------------------------------------------------------------


def _check_vectors(
    store: Store, new: Collection, sampled: Sequence[Record], fresh: Mapping[str, Vectors]
) -> list[Check]:
    """Compare stored vectors with fresh encodings, and search with the latter: each image must find itself first."""
    bound = f"≥ {SAME_COSINE:g}"
    if not sampled:
        return [Check("fresh encoding", None, None, bound), Check("self-retrieval", None, None, "= 1")]
    if not fresh:
        note = f"none of {len(sampled)} sampled images can still be read and encoded"
        return [Check("fresh encoding", False, 0, bound, note), Check("self-retrieval", False, 0, "= 1", note)]
    stored = store.points.vectors(new, list(fresh))
    cosines = [float(stored[id_] @ vector) if id_ in stored else -1.0 for id_, vector in fresh.items()]
    minimum = min(cosines)
    found = 0
    for id_, hits in zip(fresh, search_each(store, new, list(fresh.values())), strict=True):
        score = next((hit.score for hit in hits if hit.id == id_), None)
        # With more identical images than hits, the image may be missing while the last hit is as near as the first.
        score = hits[-1].score if score is None and hits else score
        # Another image may come first if it is as near as a second encoding of the same image.
        found += score is not None and score >= hits[0].score - (1 - SAME_COSINE)
    note = counted(len(fresh), "image")
    return [
        Check("fresh encoding", minimum >= SAME_COSINE, round(minimum, 5), bound, f"minimum cosine of {note}"),
        Check("self-retrieval", found == len(fresh), round(found / len(fresh), 4), "= 1", note),
    ]


# -- Quality --------------------------------------------------------------------------------------------------------


def _check_quality(
    store: Store, indexer: Indexer, pair: CollectionPair, queries: Sequence[LabelledQuery], bounds: Bounds
) -> list[Check]:
    """Compare recall and MRR of both models, on the evaluation set or else on captions."""
    new, live = pair.new, pair.live
    if queries:
        texts = [query.text for query in queries]
        measured = measure_quality(store, new, queries, indexer.encode_texts(pair.new_model, texts))
        if pair.live_model is None:
            note = f"{counted(len(queries), 'query')}; the live model can no longer be loaded"
            return [Check(name, None, round(value, 4), "", note) for name, value in _quality_figures(measured).items()]
        reference = measure_quality(store, live, queries, indexer.encode_texts(pair.live_model, texts))
        return _compare_quality(measured, reference, 1.0, bounds.quality_loss, counted(len(queries), "query"))
    captions = shared_captions(store, new, live)
    count = len(captions.queries)
    if count < MIN_CAPTIONS:
        note = f"no evaluation set, and fewer than {MIN_CAPTIONS} captions in common"
        return [Check(name, None, None, "", note) for name in _quality_names()]
    measured, reference = (
        measure_quality(store, collection, captions.queries, vectors)
        for collection, vectors in zip((new, live), captions.vectors, strict=True)
    )
    return _compare_quality(measured, reference, bounds.caption_factor, 0.0, counted(count, "caption"))


def _compare_quality(measured: Quality, reference: Quality, factor: float, loss: float, note: str) -> list[Check]:
    checks = []
    of_live = _quality_figures(reference)
    for name, value in _quality_figures(measured).items():
        minimum = max(0.0, factor * of_live[name] - loss)
        full_note = f"{note}; live: {of_live[name]:.4f}"
        checks.append(Check(name, value >= minimum, round(value, 4), f"≥ {minimum:.4f}", full_note))
    return checks


def _quality_names() -> list[str]:
    return [*(f"recall@{depth}" for depth in DEPTHS), "MRR"]


def _quality_figures(quality: Quality) -> dict[str, float]:
    return dict(zip(_quality_names(), [*(quality.recall[depth] for depth in DEPTHS), quality.mrr], strict=True))


# -- The vector index -----------------------------------------------------------------------------------------------


def _check_approximate_recall(
    store: Store, collection: Collection, vectors: Sequence[Vectors], bounds: Bounds
) -> Check:
    """Compare index searches with exact ones."""
    name, bound = "approximate/exact recall@10", f"≥ {bounds.approximate_recall:g}"
    if not vectors:
        return Check(name, None, None, bound, "no vectors to search with")
    recall = approximate_recall(store, collection, vectors)
    return Check(name, recall >= bounds.approximate_recall, round(recall, 4), bound, counted(len(vectors), "query"))


def _check_search_time(store: Store, pair: CollectionPair, bounds: Bounds) -> Check:
    """Compare the median search times of both collections, a second time if the new one is slow: load passes."""
    collections = (pair.new, pair.live)
    vectors = [store.points.sample(each, TIMED) for each in collections]
    if not all(map(len, vectors)):
        return Check("median query ms", None, None, "", "no vectors to search with")
    for _ in range(2):
        new_ms, live_ms = map(median, search_times_ms(store, collections, vectors, count=TIMED))
        maximum = max(bounds.slowdown * live_ms, bounds.always_allowed_ms)
        if new_ms <= maximum:
            break
    return Check("median query ms", new_ms <= maximum, round(new_ms, 3), f"≤ {maximum:.3f}", f"live: {live_ms:.3f}")
