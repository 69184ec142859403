"""What a new collection must show before it becomes the live one, in numbers."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viewfinder.evaluation.evaluation_set import DEPTHS, Quality, Question, quality
from viewfinder.indexing.accounting import RunResult
from viewfinder.indexing.run import Indexer
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Vectors
from viewfinder.reindexing import build
from viewfinder.sources.uris import point_id
from viewfinder.store import Collection, Hit, Record, Search, Store

SAMPLED = 64
TIMED = 50
# So many captions make a comparison of models worth the name; more do not move it.
FEWEST_CAPTIONS, MOST_CAPTIONS = 50, 500
_BATCH = 32
# Two encodings of one picture: other batch sizes, devices and precisions move a cosine by less.
SAME_COSINE = 0.999
# Scores that differ by less are ties, whose order says nothing.
_TIE = 1e-4


@dataclass(frozen=True)
class Bounds:
    """How far the new collection may fall behind the live one."""

    failure_ratio: float
    loss_ratio: float
    quality_loss: float
    # Captions are no questions that somebody asked: only a model that understands next to nothing of them is refused.
    caption_factor: float = 0.5
    exact_recall: float = 0.98
    slowdown: float = 2.0
    noise_ms: float = 5.0


@dataclass(frozen=True)
class Check:
    """One figure and the bound that it has to keep; `passed` is None where there was nothing to measure."""

    name: str
    passed: bool | None
    figure: float | None
    wanted: str
    note: str = ""


@dataclass(frozen=True)
class Sides:
    """The two collections, the model of the new one, and the live one's where it can still be had."""

    live: Collection
    new: Collection
    new_model: Checkpoint
    live_model: Checkpoint | None


def verify(
    store: Store,
    work: Indexer,
    sides: Sides,
    passes: Sequence[RunResult],
    questions: Sequence[Question],
    bounds: Bounds,
    run_id: str,
) -> list[Check]:
    """All checks, in the order in which they are told; `questions` may be empty."""
    sampled = store.points.sample_records(sides.new, SAMPLED, {"has_image": {"eq": True}})
    fresh = work.encode_images(sides.new_model, sampled)
    return [
        *_counted(store, sides, passes, bounds, run_id),
        *_compared(store, sides, sampled, fresh),
        *_asked(store, work, sides, questions, bounds),
        _approximate(store, sides.new, list(fresh.values()), bounds),
        _timed(store, sides, bounds),
    ]


# -- Numbers of points ----------------------------------------------------------------------------------------------


def _counted(store: Store, sides: Sides, passes: Sequence[RunResult], bounds: Bounds, run_id: str) -> list[Check]:
    expected = sum(each.expected for each in passes)
    found = sum(build.counts(store, sides.new, passes))
    everything = store.points.count(sides.new)
    sources = sorted({str(source["source"]) for each in passes for source in each.manifest.sources})
    strays = everything - store.points.count(sides.new, {"sources": {"in": sources}})

    listed = sum(each.manifest.listed for each in passes)
    failed = sum(each.outcome.tally.failed for each in passes)
    ratio = failed / listed if listed else 0.0
    lost = _lost(store, sides, run_id) if failed else 0
    before, captions, captions_before = (
        store.points.count(sides.live),
        store.points.count(sides.new, {"has_caption": {"eq": True}}),
        store.points.count(sides.live, {"has_caption": {"eq": True}}),
    )
    kept = 1 - bounds.loss_ratio
    return [
        Check("points", found == expected, found, f"= {expected:,}", "listed − failed − taken down"),
        Check("points of other sources", strays == 0, strays, "= 0"),
        Check("failed", ratio <= bounds.failure_ratio, round(ratio, 5), f"≤ {bounds.failure_ratio:g}", f"{failed:,}"),
        Check("failed, but live", lost == 0, lost, "= 0", "unchanged pictures that only the live index has"),
        Check("points kept", everything >= kept * before, everything, f"≥ {kept * before:,.0f}", f"live: {before:,}"),
        Check(
            "captions kept",
            captions >= kept * captions_before if captions_before else None,
            captions,
            f"≥ {kept * captions_before:,.0f}",
            f"live: {captions_before:,}",
        ),
    ]


def _lost(store: Store, sides: Sides, run_id: str) -> int:
    """Objects that failed in this run while the live collection has a picture of the very same content."""
    lost = 0
    page: dict[str, str] = {}
    for failure in store.control(sides.live.index).failures_of_run(run_id):
        page[point_id(failure.uri)] = failure.etag
        if len(page) == 1000:
            lost += _held(store, sides.live, page)
            page = {}
    return lost + _held(store, sides.live, page)


def _held(store: Store, live: Collection, etags: dict[str, str]) -> int:
    states = store.points.states(live, list(etags))
    return sum(state.has_image and state.etag == etags[id_] for id_, state in states.items())


# -- Vectors --------------------------------------------------------------------------------------------------------


def _compared(store: Store, sides: Sides, sampled: Sequence[Record], fresh: dict[str, Vectors]) -> list[Check]:
    """Stored vectors against fresh ones, and whether a fresh one finds its own picture first."""
    wanted = f"≥ {SAME_COSINE:g}"
    if not sampled:
        return [Check("fresh encoding", None, None, wanted), Check("self-retrieval", None, None, "= 1")]
    if not fresh:
        note = f"none of {len(sampled)} sampled pictures can be read and encoded any more"
        return [Check("fresh encoding", False, 0, wanted, note), Check("self-retrieval", False, 0, "= 1", note)]
    stored = store.points.vectors(sides.new, list(fresh))
    cosines = [float(stored[id_] @ vector) if id_ in stored else -1.0 for id_, vector in fresh.items()]
    worst = min(cosines)
    found = 0
    for id_, hits in zip(fresh, searched(store, sides.new, list(fresh.values())), strict=True):
        score = next((hit.score for hit in hits if hit.id == id_), None)
        # More equal pictures than hits: the last of these is as near as the first.
        score = hits[-1].score if score is None and hits else score
        # A picture that differs from this one by less than its own encodings do may come before it.
        found += score is not None and score >= hits[0].score - (1 - SAME_COSINE)
    note = f"{len(fresh)} pictures"
    return [
        Check("fresh encoding", worst >= SAME_COSINE, round(worst, 5), wanted, f"least cosine of {note}"),
        Check("self-retrieval", found == len(fresh), round(found / len(fresh), 4), "= 1", note),
    ]


# -- Questions ------------------------------------------------------------------------------------------------------


def _asked(store: Store, work: Indexer, sides: Sides, questions: Sequence[Question], bounds: Bounds) -> list[Check]:
    """Quality on the golden set, or else on captions that ask for their own pictures, against the live model's."""
    names = [*(f"recall@{depth}" for depth in DEPTHS), "MRR"]
    if questions:
        texts = [each.text for each in questions]
        new = answer(store, sides.new, questions, work.encode_texts(sides.new_model, texts))
        live = (
            answer(store, sides.live, questions, work.encode_texts(sides.live_model, texts))
            if sides.live_model is not None
            else None
        )
        what, factor, loss = f"{len(questions)} questions", 1.0, bounds.quality_loss
    else:
        pairs = shared_captions(store, sides.new, sides.live)
        if len(pairs) < FEWEST_CAPTIONS:
            note = f"no golden set, and fewer than {FEWEST_CAPTIONS} captions in common"
            return [Check(name, None, None, "", note) for name in names]
        questions = [Question("", frozenset([id_])) for id_ in pairs]
        new = answer(store, sides.new, questions, np.stack([pair[0] for pair in pairs.values()]))
        live = answer(store, sides.live, questions, np.stack([pair[1] for pair in pairs.values()]))
        what, factor, loss = f"{len(questions)} captions", bounds.caption_factor, 0.0
    if live is None:
        return [
            Check(name, None, round(figure, 4), "", f"{what}; the live model cannot be loaded any more")
            for name, figure in zip(names, figures(new), strict=True)
        ]
    checks = []
    for name, now, before in zip(names, figures(new), figures(live), strict=True):
        least = max(0.0, factor * before - loss)
        checks.append(Check(name, now >= least, round(now, 4), f"≥ {least:.4f}", f"{what}; live: {before:.4f}"))
    return checks


def figures(found: Quality) -> list[float]:
    """Recall at each depth, and the mean reciprocal rank."""
    return [*(found.recall[depth] for depth in DEPTHS), found.mrr]


def answer(store: Store, collection: Collection, questions: Sequence[Question], vectors: Vectors) -> Quality:
    """How well a collection answers; `vectors` are the questions', float32 [N, D]."""
    answers = [[hit.id for hit in hits] for hits in searched(store, collection, list(vectors))]
    return quality(questions, answers)


def shared_captions(store: Store, one: Collection, other: Collection) -> dict[str, tuple[Vectors, Vectors]]:
    """Vectors of the same captions in both collections by point id; so the models need not be asked again."""
    both = {"and": [{"has_caption": {"eq": True}}, {"has_image": {"eq": True}}]}
    sampled = store.points.sample_records(one, MOST_CAPTIONS, both)
    hashes = {each.id: each.payload.get("caption_hash") for each in sampled}
    there = store.points.states(other, list(hashes))
    same = [id_ for id_, state in there.items() if state.has_image and state.caption_hash == hashes[id_]]
    of_one, of_other = store.points.vectors(one, same, "caption"), store.points.vectors(other, same, "caption")
    return {id_: (of_one[id_], of_other[id_]) for id_ in same if id_ in of_one and id_ in of_other}


# -- The graph, and its speed ---------------------------------------------------------------------------------------


def _approximate(store: Store, collection: Collection, vectors: Sequence[Vectors], bounds: Bounds) -> Check:
    """Recall@10 of searches along the graph, exact ones being the truth."""
    name, wanted = "approximate/exact", f"≥ {bounds.exact_recall:g}"
    if store.address.url is None:
        return Check(name, None, None, wanted, "the embedded store is always exact")
    if not vectors:
        return Check(name, None, None, wanted, "no vectors to ask with")
    recall = approximate_recall(store, collection, vectors)
    return Check(name, recall >= bounds.exact_recall, round(recall, 4), wanted, f"{len(vectors)} queries")


def approximate_recall(store: Store, collection: Collection, vectors: Sequence[Vectors]) -> float:
    """The part of the 10 exact nearest points that a search along the graph finds; ties at the end count as found."""
    parts = []
    near, true = searched(store, collection, vectors), searched(store, collection, vectors, exact=True)
    for found, exact in zip(near, true, strict=True):
        ids = {hit.id for hit in exact}
        last = exact[-1].score - _TIE if exact else 0.0
        parts.append(sum(hit.id in ids or hit.score >= last for hit in found) / max(1, len(exact)))
    return statistics.fmean(parts)


def _timed(store: Store, sides: Sides, bounds: Bounds) -> Check:
    """Median time of a search of each, asked in turns so that whatever else happens slows both."""
    new, live = store.points.sample(sides.new, TIMED), store.points.sample(sides.live, TIMED)
    if not len(new) or not len(live):
        return Check("median query ms", None, None, "", "no vectors to ask with")
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(TIMED):
        for side, (collection, vectors) in enumerate(((sides.new, new), (sides.live, live))):
            began = time.perf_counter()
            store.search.nearest(collection, vectors[number % len(vectors)], limit=10, with_payload=False)
            times[side].append(1000 * (time.perf_counter() - began))
    now, before = map(statistics.median, times)
    # Below the noise a factor says nothing.
    most = max(bounds.slowdown * before, bounds.noise_ms)
    return Check("median query ms", now <= most, round(now, 3), f"≤ {most:.3f}", f"live: {before:.3f}")


def searched(
    store: Store,
    collection: Collection,
    vectors: Sequence[Vectors],
    *,
    limit: int = DEPTHS[-1],
    exact: bool = False,
) -> list[list[Hit]]:
    """The hits of each vector among the pictures, best first."""
    found: list[list[Hit]] = []
    for start in range(0, len(vectors), _BATCH):
        searches = [
            Search(vector, limit=limit, with_payload=False, exact=exact) for vector in vectors[start : start + _BATCH]
        ]
        found += store.search.many(collection, searches)
    return found
