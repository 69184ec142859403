"""Messages about wrong fields: which field, which value, what is valid."""

from typing import Any

import pytest

from viewfinder.query.body import parse_batch, parse_query
from viewfinder.query.errors import QueryError


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"text": ""}, "text: it is empty."),
        ({"text": "\u200b "}, "text: the text '\\u200b ' has no visible character; describe the images to find."),
        ({"text": 3}, "text: expected a text, not 3."),
        ({"text": None, "image": True}, "image: expected a text, not true."),
        ({"text": "a" * 4_001}, "text: 4,001 characters are too many; the maximum is 4,000."),
        ({"text": "a", "limit": 0}, "limit: 0 is below the minimum of 1."),
        ({"text": "a", "limit": 201}, "limit: 201 is above the maximum of 200."),
        ({"text": "a", "limit": "7"}, "limit: expected a whole number, not '7'."),
        ({"text": "a", "limit": 7.5}, "limit: expected a whole number, not 7.5."),
        ({"text": "a", "score_threshold": "high"}, "score_threshold: expected a number, not 'high'."),
        ({"text": "a", "target": "sound"}, "target: 'sound' is not one of 'image', 'caption' or 'both'."),
        ({"text": "a", "filter": []}, "filter: expected a JSON object, not []."),
        ({"text": "a", "weights": 3}, "weights: expected a JSON object, not 3."),
        ({"vector": 3}, "vector: expected a list, not 3."),
        ({"vector": []}, "vector: it is empty."),
        ({"vector": [0.0] * 8_193}, "vector: 8,193 are too many; the maximum is 8,192."),
        ({"vector": [1.0, float("nan")]}, "vector.1: expected a finite number, not nan."),
        ({"queries": [{"text": "a", "weight": 101}]}, "queries.0.weight: 101 is above the maximum of 100."),
        ({"text": "a", "limt": 1}, "there is no field 'limt'; did you mean 'limit'?"),
        (
            {"queries": [{"txt": "a"}]},
            "queries.0: there is no field 'txt'; did you mean 'text'?",
        ),
        (
            {"id": "cat.jpg"},
            "id: 'cat.jpg' is not the id of an image, as '0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a' in a hit.",
        ),
        (
            {},
            "give exactly one of text, image, image_url, id, vector, queries; or filter or order_by, to list images "
            "without a query.",
        ),
        (
            {"text": "a", "id": None, "vector": [1.0]},
            "give exactly one of text, image, image_url, id, vector, queries, not text and vector.",
        ),
        ({"text": "a", "min_relevance": 1.1}, "min_relevance: 1.1 is above the maximum of 1."),
        ({"text": "a", "order_by": ""}, "order_by: it is empty."),
        (
            {"queries": [{"text": "a"}], "rank": "words"},
            "rank: 'words' needs `text`, not queries, whose weights it does not use.",
        ),
        (
            {"text": "a", "order_by": "size", "min_relevance": 0.9, "group_by": "tags"},
            "order_by: cannot be combined with group_by, which is an order of its own.",
        ),
        (
            {"text": "a", "order_by": "size", "min_relevance": 0.9, "rank": "hybrid"},
            "order_by: cannot be combined with rank 'hybrid', which is an order of its own.",
        ),
        (
            {"text": "a", "order_by": "size", "min_relevance": 0.9, "diversity": 0.1},
            "order_by: cannot be combined with diversity, which is an order of its own.",
        ),
        (
            {"text": "a", "order_by": "size", "min_relevance": 0.9, "offset": 1_000},
            "offset: must be below 1000 with order_by.",
        ),
        (
            {"text": "a", "collapse": "exact", "group_by": "tags"},
            "collapse: cannot be combined with group_by, whose groups may share an image.",
        ),
        ({"text": "a", "collapse": "similar"}, "collapse: 'similar' is not one of 'exact' or 'near'."),
        (
            {"text": "a", "collapse": "exact", "collapse_threshold": 0.9},
            "collapse_threshold: only collapse 'near' has a threshold.",
        ),
        (
            {"text": "a", "collapse": "near", "collapse_threshold": 1.5},
            "collapse_threshold: 1.5 is above the maximum of 1.",
        ),
        ({"text": "a", "collapse": "near", "offset": 1_000}, "offset: must be below 1000 with collapse."),
        ({"filter": {}, "collapse": "exact", "offset": 1_000}, "offset: must be below 1000 with collapse."),
        (
            {"filter": {}, "target": "caption"},
            "target: needs a query, such as text. Without one, images are listed in the order of a field.",
        ),
        (
            {"order_by": "size", "score_threshold": 0.1},
            "score_threshold: needs a query, such as text. Without one, images are listed in the order of a field.",
        ),
        (
            {"order_by": "size", "rank": "words"},
            "rank: needs a query, such as text. Without one, images are listed in the order of a field.",
        ),
    ],
    ids=str,
)
def test_a_message_names_the_field_the_value_and_what_is_valid(document: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError) as raised:
        parse_query(document)
    assert raised.value.message == message


def test_a_value_from_a_client_is_shown_in_bounded_length() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep] * 2
    for value in ("x" * 10**6, deep, {f"key {number}": "v" * 1000 for number in range(1000)}, 10**4000):
        with pytest.raises(QueryError) as raised:
            parse_query({"text": "a", "target": value, "offset": value})
        assert len(raised.value.message) < 1_000


@pytest.mark.parametrize("query", [{"text": "a"}, {"id": "0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a", "target": "both"}])
def test_an_order_of_hits_needs_a_minimum(query: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match=r"^order_by: with a query it needs min_relevance or score_threshold"):
        parse_query({**query, "order_by": "-size"})
    parse_query({**query, "order_by": "-size", "min_relevance": 0.5, "offset": 999})
    parse_query({"text": "a", "order_by": "-size", "rank": "words"})
    parse_query({"order_by": "-size", "offset": 10_000})


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(QueryError, match=r"^text: .*\. target: .*\. limit: "):
        parse_query({"text": "", "limit": 0, "target": "x"})


def test_a_batch_keeps_the_error_of_each_search_in_its_place() -> None:
    first, second, third = parse_batch([{"text": "a"}, {"text": " "}, {"text": "a", "cursor": "abc"}])
    assert not isinstance(first, QueryError)
    assert isinstance(second, QueryError)
    assert isinstance(third, QueryError)
    assert third.message.startswith("cursor: a batch takes no cursors")
