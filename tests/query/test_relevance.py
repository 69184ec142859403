"""Relevance: the share of unrelated pairs with a lower cosine."""

import pytest

from viewfinder.query.query import Query, QueryPart
from viewfinder.query.relevance import query_kind, relevance

BASELINES = {"text_image": [0.1 + 0.2 * share / 100 for share in range(101)], "text_caption": [0.5, 0.7, 0.9]}


@pytest.mark.parametrize(
    ("kind", "cosines", "expected"),
    [
        ("text", {"image": 0.2}, 0.5),
        ("text", {"image": 0.05}, 0.0),
        ("text", {"image": 0.4}, 1.0),
        ("text", {"image": 0.25}, 0.75),
        ("text", {"caption": 0.8}, 0.75),
        ("text", {"image": 0.29, "caption": 0.6}, 0.95),
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
        ([QueryPart("text", "a cat"), QueryPart("text", "a beach", 0.5)], "text"),
        ([QueryPart("text", "a cat"), QueryPart("image", b"...")], None),
        ([QueryPart("text", "a cat"), QueryPart("text", "grass", -1)], None),
    ],
)
def test_only_a_query_of_one_kind_has_a_relevance(parts: list[QueryPart], kind: str | None) -> None:
    assert query_kind(Query(tuple(parts)), {"with-image": "image", "caption-only": "caption"}) == kind
