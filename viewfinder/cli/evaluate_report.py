"""Rendering of an evaluation: a Markdown table, and the files evaluation.md, .json and .png."""

import json
from pathlib import Path

from viewfinder.errors import ConfigurationError
from viewfinder.evaluation.comparison import PERCENTILES, Evaluation
from viewfinder.evaluation.evaluation_set import DEPTHS
from viewfinder.evaluation.plots import draw


def markdown(evaluation: Evaluation) -> str:
    """Return a Markdown table with one column for each collection."""
    all_ = evaluation.collections
    rows = [
        ("collection", [f"`{each.collection}`" for each in all_]),
        ("---", ["---:" for _ in all_]),
        ("model", [f"`{each.model}`" for each in all_]),
        ("points", [f"{each.points:,}" for each in all_]),
        ("dimension", [str(each.dimension) for each in all_]),
        ("queries", [f"{each.quality.queries:,}" for each in all_]),
        *((f"recall@{depth}", [f"{each.quality.recall[depth]:.4f}" for each in all_]) for depth in DEPTHS),
        ("MRR", [f"{each.quality.mrr:.4f}" for each in all_]),
        ("nDCG@10", [f"{each.quality.ndcg:.4f}" for each in all_]),
        ("approximate/exact recall@10", [_recall(each.approximate_recall) for each in all_]),
        *((f"query ms, p{part}", [f"{each.percentile_ms(part):.2f}" for each in all_]) for part in PERCENTILES),
    ]
    return "".join(f"| {' | '.join([name, *cells])} |\n" for name, cells in rows)


def save(evaluation: Evaluation, directory: Path) -> None:
    """Write evaluation.md, .json and .png. Raises `ConfigurationError` if the directory cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "evaluation.md").write_text(markdown(evaluation))
        (directory / "evaluation.json").write_text(json.dumps(evaluation.as_record(), indent=2))
        draw(evaluation, directory / "evaluation.png")
    except OSError as error:
        raise ConfigurationError(f"--out: {str(directory)!r} cannot be written: {error.strerror}.") from error


def _recall(value: float | None) -> str:
    return "exact" if value is None else f"{value:.4f}"
