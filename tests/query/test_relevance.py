"""Relevance: the share of unrelated pairs with a lower cosine."""

from typing import Any

import numpy as np
import pytest

from viewfinder.query.query import Query, QueryPart
from viewfinder.query.relevance import relevance
from viewfinder.query.vectors import query_kind
from viewfinder.store.baselines import share_below

BASELINES = {"text_image": [0.1 + 0.2 * share / 100 for share in range(101)], "text_caption": [0.5, 0.7, 0.9]}


@pytest.mark.parametrize(
    ("kind", "cosines", "expected"),
    [
        ("text", {"image": 0.2}, 0.5),
        ("text", {"image": 0.05}, 0.0),
        ("text", {"image": 0.4}, 1.0),
        ("text", {"image": 0.25}, 0.75),
        ("text", {"caption": 0.8}, 0.75),
        ("text", {"image": 0.29, "caption": 0.6}, 0.95**2),
        ("image", {"image": 0.2}, None),
        (None, {"image": 0.2}, None),
        ("text", {}, None),
    ],
)
def test_relevance_is_the_share_of_unrelated_pairs_with_a_lower_cosine(
    kind: str | None, cosines: dict[str, float], expected: float | None
) -> None:
    assert relevance(BASELINES, kind, cosines) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([QueryPart("text", "a cat")], "text"),
        ([QueryPart("image", b"...")], "image"),
        ([QueryPart("image_url", "https://example.org/cat.jpg")], "image"),
        ([QueryPart("id", "with-image")], "image"),
        ([QueryPart("id", "caption-only")], "text"),
        ([QueryPart("vector", (1.0, 0.0))], None),
        ([QueryPart("text", "a cat"), QueryPart("text", "a cat", 0.5)], "text"),
        ([QueryPart("text", "a cat"), QueryPart("image", b"...", 0.0)], "text"),
        ([QueryPart("text", "a cat"), QueryPart("text", "a cat", -2)], None),
        ([QueryPart("text", "a cat", -1)], None),
        ([QueryPart("text", "a cat"), QueryPart("text", "a beach", 0.5)], None),
        ([QueryPart("image", b"a"), QueryPart("image", b"b")], None),
        ([QueryPart("text", "a cat"), QueryPart("image", b"...")], None),
        ([QueryPart("text", "a cat"), QueryPart("text", "grass", -1)], None),
    ],
)
def test_only_a_query_of_one_thing_has_a_relevance(parts: list[QueryPart], kind: str | None) -> None:
    assert query_kind(Query(tuple(parts)), {"with-image": "image", "caption-only": "caption"}) == kind


def unit(rng: np.random.Generator, count: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    vectors = rng.normal(size=(count, 64))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # type: ignore[no-any-return]  # numpy's Any


def test_random_images_have_a_relevance_of_one_half_in_the_median_with_one_target_and_with_both() -> None:
    rng = np.random.default_rng(0)
    images, captions, queries = unit(rng, 400), unit(rng, 400), unit(rng, 50)
    quantiles = np.linspace(0, 1, 101)
    baselines = {
        "text_image": np.quantile(unit(rng, 400) @ images.T, quantiles).tolist(),
        "text_caption": np.quantile(unit(rng, 400) @ captions.T, quantiles).tolist(),
    }
    one, both = [], []
    for query in queries:
        for cosine, other in zip((images @ query).tolist(), (captions @ query).tolist(), strict=True):
            one.append(relevance(baselines, "text", {"image": cosine}))
            both.append(relevance(baselines, "text", {"image": cosine, "caption": other}))
    assert np.median(np.array(one, float)) == pytest.approx(0.5, abs=0.03)
    assert np.median(np.array(both, float)) == pytest.approx(0.5, abs=0.03)


def test_the_sum_of_two_random_images_would_inflate_the_relevance_of_others() -> None:
    """The reason why sums have none."""
    rng = np.random.default_rng(0)
    mean = unit(rng, 1)[0]  # CLIP's vectors share a direction
    images = unit(rng, 400) + mean
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    baseline = np.quantile((images[:200] @ images[200:].T).ravel(), np.linspace(0, 1, 101)).tolist()
    total = images[0] + images[1]
    shares = [share_below(baseline, float(each @ total / np.linalg.norm(total))) for each in images[2:]]
    assert np.median(shares) > 0.6
    assert query_kind(Query((QueryPart("image", b"a"), QueryPart("image", b"b"))), {}) is None
