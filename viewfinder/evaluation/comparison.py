"""How good and how fast a collection answers, in figures, as a Markdown table and as curves."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viewfinder.evaluation.evaluation_set import DEPTHS, Quality, Question, quality
from viewfinder.models.encoder import Vectors
from viewfinder.reindexing.verify import approximate_recall, searched
from viewfinder.store import Collection, Store

DEEPEST = 50
LIMIT = 10
_TIMED, _WARM_UP = 200, 10
_COLOURS = ("#1f77b4", "#d62728")


@dataclass(frozen=True)
class Evaluation:
    """The figures of one collection. `approximate` is recall@10 against exact search, None where all is exact."""

    collection: str
    model: str
    points: int
    dimension: int
    quality: Quality
    approximate: float | None
    times_ms: Sequence[float]

    def percentile(self, part: int) -> float:
        """The time within which so many of a hundred searches were answered, in milliseconds."""
        return float(np.percentile(self.times_ms, part))

    @property
    def curve(self) -> list[float]:
        """Recall at 1, 2, 3, ... hits."""
        return [self.quality.recall[depth] for depth in range(1, DEEPEST + 1)]


def evaluate(
    store: Store, collections: Sequence[Collection], questions: Sequence[Question], vectors: Sequence[Vectors]
) -> list[Evaluation]:
    """Ask each collection all questions; `vectors` are theirs by its model, float32 [N, D] for each collection."""
    times = _times(store, collections, vectors)
    made = []
    for collection, asked, times_ms in zip(collections, vectors, times, strict=True):
        answers = [[hit.id for hit in hits] for hits in searched(store, collection, list(asked), limit=DEEPEST)]
        made.append(
            Evaluation(
                collection=collection.name,
                model=collection.metadata.model_name,
                points=store.points.count(collection),
                dimension=collection.metadata.dimension,
                quality=quality(questions, answers, range(1, DEEPEST + 1)),
                approximate=(None if store.address.url is None else approximate_recall(store, collection, list(asked))),
                times_ms=times_ms,
            )
        )
    return made


def rows(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """The table: a name, then a figure for each collection."""
    lines: list[tuple[str, list[str]]] = [
        ("collection", [f"`{each.collection}`" for each in evaluations]),
        ("model", [f"`{each.model}`" for each in evaluations]),
        ("points", [f"{each.points:,}" for each in evaluations]),
        ("dimension", [str(each.dimension) for each in evaluations]),
        ("questions", [f"{each.quality.questions:,}" for each in evaluations]),
        *((f"recall@{depth}", [f"{each.quality.recall[depth]:.4f}" for each in evaluations]) for depth in DEPTHS),
        ("MRR", [f"{each.quality.mrr:.4f}" for each in evaluations]),
        ("nDCG@10", [f"{each.quality.ndcg:.4f}" for each in evaluations]),
        ("approximate/exact recall@10", [_or_exact(each.approximate) for each in evaluations]),
        *((f"query ms, p{part}", [f"{each.percentile(part):.2f}" for each in evaluations]) for part in (50, 95, 99)),
    ]
    return [[name, *cells] for name, cells in lines]


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """The table in Markdown."""
    first, *others = rows(evaluations)
    lines = [first, ["---", *("---:" for _ in evaluations)], *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def record(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as JSON has them."""
    found = evaluation.quality
    return {
        "collection": evaluation.collection,
        "model": evaluation.model,
        "points": evaluation.points,
        "dimension": evaluation.dimension,
        "questions": found.questions,
        "recall": {str(depth): round(value, 5) for depth, value in found.recall.items()},
        "mrr": round(found.mrr, 5),
        "ndcg": round(found.ndcg, 5),
        "approximate": evaluation.approximate,
        "query_ms": {f"p{part}": round(evaluation.percentile(part), 3) for part in (50, 95, 99)},
    }


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Recall by the number of hits, and the distribution of query times, as a PNG of 1,600 by 700 pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7), dpi=100, layout="constrained")
    recall, times = figure.subplots(1, 2)
    for each, colour in zip(evaluations, _COLOURS, strict=False):
        label = f"{_short(each.model)} ({each.dimension} dimensions, MRR {each.quality.mrr:.3f})"
        recall.plot(range(1, DEEPEST + 1), each.curve, color=colour, linewidth=2, label=label)
        recall.plot(DEPTHS, [each.quality.recall[depth] for depth in DEPTHS], "o", color=colour)
        ordered = np.sort(each.times_ms)
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        median = f"{_short(each.model)} (median {each.percentile(50):.2f} ms)"
        times.plot(ordered, shares, color=colour, linewidth=2, label=median)
    recall.set(title="Recall@k", xlabel="hits looked at (k)", ylabel="relevant pictures among them", xlim=(0, DEEPEST))
    recall.set_ylim(0, 1.02)
    times.set(title="Query time", xlabel="milliseconds", ylabel="part of the queries answered")
    times.set_ylim(0, 1.02)
    for axes in (recall, times):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path, format="png")


def _times(store: Store, collections: Sequence[Collection], vectors: Sequence[Vectors]) -> list[list[float]]:
    """Milliseconds of single searches, the collections in turns, so that whatever else happens slows all of them."""
    times: list[list[float]] = [[] for _ in collections]
    asked = min(map(len, vectors))
    for number in range(-_WARM_UP, _TIMED):
        for collection, asks, spent in zip(collections, vectors, times, strict=True):
            began = time.perf_counter()
            store.search.nearest(collection, asks[number % asked], limit=LIMIT, with_payload=False)
            if number >= 0:
                spent.append(1000 * (time.perf_counter() - began))
    return times


def _or_exact(value: float | None) -> str:
    return "exact" if value is None else f"{value:.4f}"


def _short(model: str) -> str:
    return model if len(model) <= 40 else f"…{model[-39:]}"
