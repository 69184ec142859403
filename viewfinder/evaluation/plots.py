"""Plots of an evaluation."""

from pathlib import Path

import numpy as np

from viewfinder.evaluation.comparison import CURVE_DEPTH, Evaluation
from viewfinder.evaluation.evaluation_set import DEPTHS

_COLOURS = ("#1f77b4", "#d62728")
_MODEL_WIDTH = 40  # characters of a model's name in a legend


def draw(evaluation: Evaluation, path: Path) -> None:
    """Write a PNG of 1,600 by 700 pixels: recall by the number of hits, and the distribution of search times."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7), dpi=100, layout="constrained")
    recall, times = figure.subplots(1, 2)
    for each, colour in zip(evaluation.collections, _COLOURS, strict=False):
        model = _shorten(each.model)
        found = each.quality.recall
        curve = [found[depth] for depth in range(1, CURVE_DEPTH + 1)]
        label = f"{model} ({each.dimension} dimensions, MRR {each.quality.mrr:.3f})"
        recall.plot(range(1, CURVE_DEPTH + 1), curve, color=colour, linewidth=2, label=label)
        recall.plot(DEPTHS, [found[depth] for depth in DEPTHS], "o", color=colour)
        ordered = np.sort(each.times_ms)
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        label = f"{model} (median {each.percentile_ms(50):.2f} ms)"
        times.plot(ordered, shares, color=colour, linewidth=2, label=label)
    recall.set(title="Recall@k", xlabel="hits (k)", ylabel="share of relevant images found", xlim=(0, CURVE_DEPTH))
    recall.set_ylim(0, 1.02)
    times.set(title="Search time", xlabel="milliseconds", ylabel="share of searches answered")
    times.set_ylim(0, 1.02)
    for axes in (recall, times):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path, format="png")


def _shorten(model: str) -> str:
    return model if len(model) <= _MODEL_WIDTH else f"…{model[-_MODEL_WIDTH + 1 :]}"
