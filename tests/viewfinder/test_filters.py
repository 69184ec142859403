from datetime import datetime
from typing import Any

import pytest
from qdrant_client import models

from viewfinder.errors import FilterError
from viewfinder.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, parse_filter


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_filter_is_no_filter(nothing: Any) -> None:
    assert parse_filter(nothing) is None


def test_keys_of_one_object_must_all_hold() -> None:
    made = parse_filter({"bucket": {"eq": "b"}, "width": {"gt": 1, "lte": 9}})
    assert made == models.Filter(
        must=[
            models.FieldCondition(key="bucket", match=models.MatchValue(value="b")),
            models.FieldCondition(key="width", range=models.Range(gt=1)),
            models.FieldCondition(key="width", range=models.Range(lte=9)),
        ]
    )


def test_dates_become_date_ranges_in_known_and_in_the_users_fields() -> None:
    may = datetime(2024, 5, 31)
    for name in ("last_modified", "meta.taken"):
        made = parse_filter({name: {"gte": "2024-05-31"}})
        assert made == models.Filter(must=[models.FieldCondition(key=name, range=models.DatetimeRange(gte=may))])


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"colour": {"eq": "red"}}, r"No field 'colour'.*width.*meta\.NAME"),
        ({"meta": {"eq": "red"}}, "No field 'meta'"),
        ({"meta.a b": {"eq": "red"}}, "No field 'meta.a b'"),
        ({"width": {"equals": 3}}, "no operator 'equals'.*it takes eq, ne, in, gt, gte, lt, lte"),
        ({"uri": {"gt": "a"}}, "no operator 'gt' for this field; it takes eq, ne, in"),
        ({"uri": {"text": "a"}}, "no operator 'text'"),
        ({"width": 3}, r"'width': expected an object.*not 3"),
        ({"width": {}}, "'width': expected an object"),
        ({"width": {"eq": "3"}}, "'width': expected a number, not '3'"),
        ({"width": {"gt": True}}, "expected a number, not True"),
        ({"width": {"gt": float("nan")}}, "expected a number, not nan"),
        ({"meta.n": {"eq": 2**70}}, "expected a number"),
        ({"has_image": {"eq": 1}}, "expected true or false, not 1"),
        ({"bucket": {"eq": 3}}, "'bucket': expected a string, not 3"),
        ({"meta.n": {"eq": [1]}}, r"not \[1\]"),
        ({"indexed_at": {"gte": "yesterday"}}, "expected a date.*not 'yesterday'"),
        ({"meta.n": {"gt": "a lot"}}, "expected a date"),
        ({"caption": {"text": " "}}, "'text' takes words"),
        ({"tags": {"in": []}}, f"'in' takes a list of 1 to {MAX_VALUES} values"),
        ({"tags": {"in": ["a"] * (MAX_VALUES + 1)}}, "'in' takes a list"),
        ({"tags": {"in": ["a", 3]}}, "expected a string, not 3"),
        ({"and": {"tags": {"eq": "a"}}}, "'and' in a filter takes a list"),
        ({"or": []}, "'or' in a filter takes a list"),
        ({"not": {}}, "A filter is an object"),
        ({"and": ["tags"]}, "A filter is an object.*not 'tags'"),
        ([], "A filter is an object"),
        ({"or": [{"width": {"eq": 1}}] * (MAX_CONDITIONS + 1)}, f"more than {MAX_CONDITIONS} conditions"),
    ],
)
def test_what_is_wrong_is_named(expression: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filter(expression)


def test_depth_is_bounded() -> None:
    expression: Any = {"width": {"eq": 1}}
    for _ in range(MAX_DEPTH - 1):
        expression = {"not": expression}
    assert parse_filter(expression) is not None
    with pytest.raises(FilterError, match=f"more than {MAX_DEPTH} levels"):
        parse_filter({"not": expression})


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter({"width": {"eq": "x" * 10_000}})
    assert len(str(caught.value)) < 200
