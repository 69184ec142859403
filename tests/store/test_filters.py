"""The filter language: translation to Qdrant's filters, error messages, hostile input."""

import json
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from viewfinder.errors import FilterError
from viewfinder.store.field_names import FIELDS, check_countable, check_groupable, field_path
from viewfinder.store.filter_values import MAX_CONDITIONS, MAX_FILTER_VALUES, MAX_VALUE_CHARACTERS
from viewfinder.store.filters import MAX_FILTER_DEPTH, OPERATORS, parse_filter


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_filter_becomes_none(empty: Any) -> None:
    assert parse_filter(empty) is None


def test_all_keys_of_an_object_must_match() -> None:
    made = parse_filter({"bucket": {"eq": "b"}, "width": {"gt": 1, "lte": 9}})
    assert made == models.Filter(
        must=[
            models.FieldCondition(key="bucket", match=models.MatchValue(value="b")),
            models.FieldCondition(key="width", range=models.Range(gt=1)),
            models.FieldCondition(key="width", range=models.Range(lte=9)),
        ]
    )


def test_a_uuid_is_compared_in_lower_case() -> None:
    made = parse_filter({"image_hash": {"eq": "0D3E5B0E-7A37-5b7e-9d2d-1c5c8a5f6f10"}})
    value = models.MatchValue(value="0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10")
    assert made == models.Filter(must=[models.FieldCondition(key="image_hash", match=value)])


def test_dates_become_date_ranges_in_built_in_and_in_meta_fields() -> None:
    may = datetime(2024, 5, 31, tzinfo=UTC)
    for name in ("last_modified", "meta.taken"):
        made = parse_filter({name: {"gte": "2024-05-31"}})
        assert made == models.Filter(must=[models.FieldCondition(key=name, range=models.DatetimeRange(gte=may))])


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"colour": {"eq": "red"}}, r"Unknown field 'colour'.*width.*meta\.NAME"),
        ({"meta": {"eq": "red"}}, "Unknown field 'meta'"),
        ({'meta."a': {"eq": "red"}}, "Unknown field"),
        ({"meta.a[0]": {"eq": "red"}}, "Unknown field"),
        ({"meta.a..b": {"eq": "red"}}, "Unknown field"),
        ({"meta.a\n": {"eq": "red"}}, "Unknown field"),
        ({"meta.\udc80": {"eq": "red"}}, "Unknown field"),
        ({"widht": {"eq": 1}}, "Unknown field 'widht'.*Closest: 'width'"),
        ({7: {"eq": 1}}, "Unknown field 7"),
        ({"width": {"equals": 3}}, "'equals' is unknown; a field of type integer takes eq, ne, in, gt, gte, lt, lte"),
        ({"uri": {"gt": "a"}}, "'gt' does not fit its type; a field of type keyword takes eq, ne, in"),
        ({"uri": {"text": "a"}}, "'text' does not fit its type"),
        ({"image_hash": {"eq": "abc"}}, "'image_hash': expected a UUID as in '0d3e5b0e-.*', not 'abc'"),
        ({"image_hash": {"ne": "0" * 32}}, "'image_hash': expected a UUID"),
        ({"image_hash": {"in": ["0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10", ""]}}, "'image_hash': expected a UUID"),
        ({"width": 3}, r"'width': expected an object.*not 3"),
        ({"width": {}}, "'width': expected an object"),
        ({"width": {"eq": "3"}}, "'width': its type is integer: expected a number, not '3'"),
        ({"width": {"gt": True}}, "expected a number, not true"),
        ({"width": {"gt": float("nan")}}, "expected a number, not nan"),
        ({"meta.n": {"eq": 2**70}}, "expected a number"),
        ({"has_image": {"eq": 1}}, "expected true or false, not 1"),
        ({"bucket": {"eq": 3}}, "'bucket': its type is keyword: expected a string, not 3"),
        ({"meta.n": {"eq": [1]}}, r"not \[1\]"),
        ({"width": {"eq": [None, {"a": False}]}}, r"not \[null, \{'a': false\}\]"),
        ({"indexed_at": {"gte": "yesterday"}}, "expected a date.*not 'yesterday'"),
        ({"meta.n": {"gt": "a lot"}}, "expected a date"),
        ({"caption": {"text": " "}}, "'text' takes words"),
        ({"caption": {"text": "-- \x00 _"}}, "'text' takes words"),
        ({"tags": {"in": []}}, f"'in' takes a list of 1 to {MAX_FILTER_VALUES} values"),
        ({"tags": {"in": ["a"] * (MAX_FILTER_VALUES + 1)}}, "more than 1,000 values"),
        ({"or": [{"tags": {"in": ["a"] * (MAX_FILTER_VALUES // 2 + 1)}}] * 2}, "more than 1,000 values"),
        ({"and": [{"caption": {"text": " ".join(map(str, range(600)))}}] * 2}, "more than 1,000 values or words"),
        ({"caption": {"text": "a" * (MAX_VALUE_CHARACTERS + 1)}}, "a text of 4,097 characters"),
        ({"uri": {"eq": "\ud800"}}, "invalid Unicode"),
        ({"tags": {"in": ["a", "\udfff"]}}, "invalid Unicode"),
        ({"caption": {"text": "a \udfff"}}, "invalid Unicode"),
        ({"width": {"\ud800": 1}}, "is unknown"),
        ({"width": {"eq": 10**5000}}, "expected a number, not a number of more than 30 digits"),
        ({"meta.n": {"gt": -(10**5000)}}, "expected a number"),
        ({"width": {"in": [float("inf")]}}, "expected a number, not inf"),
        ({"indexed_at": {"gte": 20240531}}, "expected a date"),
        ({"indexed_at": {"gte": 10**5000}}, "expected a date"),
        ({"indexed_at": {"eq": "2024-05-31\udc80"}}, "expected a date"),
        ({"indexed_at": {"gte": "0001-01-01T00:00:00+01:00"}}, "expected a date"),
        ({"indexed_at": {"gte": "9999-12-31T23:59:59-01:00"}}, "expected a date"),
        ({"indexed_at": {"in": ["2024-05-31", 2024]}}, "expected a date"),
        ({"tags": {"in": ["a", 3]}}, "expected a string, not 3"),
        ({"and": {"tags": {"eq": "a"}}}, "'and' in a filter takes a list"),
        ({"or": []}, "'or' in a filter takes a list"),
        ({"not": {}}, "A filter is an object"),
        ({"and": ["tags"]}, "A filter is an object.*not 'tags'"),
        ([], "A filter is an object"),
        ({"or": [{"width": {"eq": 1}}] * (MAX_CONDITIONS + 1)}, f"more than {MAX_CONDITIONS} conditions"),
    ],
)
def test_an_invalid_filter_is_refused_with_its_fault(expression: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        parse_filter(expression)


def test_nesting_is_limited() -> None:
    expression: Any = {"width": {"eq": 1}}
    for _ in range(MAX_FILTER_DEPTH - 1):
        expression = {"not": expression}
    assert parse_filter(expression) is not None
    with pytest.raises(FilterError, match=f"more than {MAX_FILTER_DEPTH} levels"):
        parse_filter({"not": expression})


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter({"width": {"eq": "x" * 10_000}})
    assert len(str(caught.value)) < 200


def test_extreme_nesting_is_refused() -> None:
    """Formatting the wrong part in the message exceeded Python's recursion limit."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for expression in (deep, {"width": deep}, {"width": {"eq": deep}}, {"or": deep}, {"width": {"in": [deep]}}):
        with pytest.raises(FilterError):
            parse_filter(expression)


def test_dates_are_compared_in_utc_whatever_their_zone() -> None:
    two = datetime(2024, 5, 31, 2, tzinfo=UTC)
    for text in ("2024-05-31T02:00", "2024-05-31T02:00:00Z", "2024-05-31T04:30:00+02:30", "2024-05-30 23:00-03:00"):
        made = parse_filter({"indexed_at": {"lt": text}})
        assert made == models.Filter(must=[models.FieldCondition(key="indexed_at", range=models.DatetimeRange(lt=two))])
        assert made.model_dump_json(exclude_none=True).count("Z") == 1


DAY, NEXT = datetime(2024, 5, 31, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2024-05-31", "20240531", "2024-05-31Z"])
@pytest.mark.parametrize(
    ("operator", "bounds"),
    [
        ("eq", {"gte": DAY, "lt": NEXT}),
        ("gt", {"gte": NEXT}),
        ("gte", {"gte": DAY}),
        ("lt", {"lt": DAY}),
        ("lte", {"lt": NEXT}),
    ],
)
def test_a_date_without_a_time_is_the_whole_day(text: str, operator: str, bounds: Any) -> None:
    """`lte` left out all of the day but its midnight."""
    condition = models.FieldCondition(key="indexed_at", range=models.DatetimeRange(**bounds))
    assert parse_filter({"indexed_at": {operator: text}}) == models.Filter(must=[condition])


def test_a_list_of_days_and_moments_matches_any_of_them() -> None:
    made = parse_filter({"indexed_at": {"in": ["2024-05-31", "2024-06-01T00:00Z"]}})
    either = [models.DatetimeRange(gte=DAY, lt=NEXT), models.DatetimeRange(gte=NEXT, lte=NEXT)]
    conditions = [models.FieldCondition(key="indexed_at", range=each) for each in either]
    assert made == models.Filter(must=[models.Filter(should=conditions)])


def test_a_day_may_name_its_zone() -> None:
    made = parse_filter({"indexed_at": {"eq": "2024-05-31+02:00"}})
    begin, end = datetime(2024, 5, 30, 22, tzinfo=UTC), datetime(2024, 5, 31, 22, tzinfo=UTC)
    assert made == models.Filter(
        must=[models.FieldCondition(key="indexed_at", range=models.DatetimeRange(gte=begin, lt=end))]
    )


@pytest.mark.parametrize("text", ["2024-W22", "2024-W22-5", "2024-05", "2024", "31.5.2024", "2024-05-31_12:00"])
def test_what_is_not_a_day_or_a_moment_is_refused(text: str) -> None:
    with pytest.raises(FilterError, match=f"expected a date.*not '{text}'"):
        parse_filter({"indexed_at": {"lte": text}})


@pytest.mark.parametrize("value", [4, 4.0])
@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        ("integer", {"match": models.MatchValue(value=4)}),
        ("float", {"range": models.Range(gte=4, lte=4)}),
    ],
)
def test_a_whole_number_matches_in_either_form(kind: str, value: Any, condition: Any) -> None:
    made = parse_filter({"meta.n": {"eq": value}, "meta.m": {"ne": value}}, {"meta.n": kind, "meta.m": kind})
    negated = models.FieldCondition(key="meta.m", **condition)
    assert made == models.Filter(
        must=[models.FieldCondition(key="meta.n", **condition), models.Filter(must_not=[negated])]
    )


def test_lists_of_numbers_become_one_condition_where_qdrant_can_match_them() -> None:
    (integers, floats) = (
        parse_filter({"meta.n": {"in": [1, 2.0, 3]}}, {"meta.n": kind}) for kind in ("integer", "float")
    )
    assert integers == models.Filter(must=[models.FieldCondition(key="meta.n", match=models.MatchAny(any=[1, 2, 3]))])
    assert floats is not None
    assert [each.range.gte for each in floats.must[0].should] == [1, 2, 3]


@pytest.mark.parametrize("name", ["last_modified", "width", "has_image", "caption", "tags", "meta.x"])
def test_null_matches_missing_fields_and_its_negation_present_ones(name: str) -> None:
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=name))
    assert parse_filter({name: {"eq": None}}) == models.Filter(must=[empty])
    assert parse_filter({name: {"ne": None}}) == models.Filter(must=[models.Filter(must_not=[empty])])


def test_names_with_special_characters_are_quoted_for_qdrant() -> None:
    assert field_path("meta.shot by.année") == 'meta."shot by"."année"'
    made = parse_filter({"meta.shot by": {"eq": "Ann"}})
    assert made == models.Filter(
        must=[models.FieldCondition(key='meta."shot by"', match=models.MatchValue(value="Ann"))]
    )


# -- Known fields ---------------------------------------------------------------------------------------------------

KNOWN = {
    "meta.year": "integer",
    "meta.place": "keyword",
    "meta.price": "float",
    "meta.taken": "datetime",
    "meta.exif.iso": "integer",
}


@pytest.mark.parametrize("name", ["width", "meta.year", "meta.exif.iso"])
def test_known_fields_are_accepted(name: str) -> None:
    assert parse_filter({name: {"ne": None}}, KNOWN) is not None


@pytest.mark.parametrize("kind", [each for each in OPERATORS if each != "any"])
@pytest.mark.parametrize("operator", ["eq", "ne", "in", "gt", "gte", "lt", "lte", "text"])
@pytest.mark.parametrize("value", ["a", 3, 2.5, True, "2024-05-31"], ids=str)
def test_a_comparison_that_cannot_match_the_type_is_refused_and_names_it(kind: str, operator: str, value: Any) -> None:
    """A range over a column of text was answered with nothing."""
    is_date = value == "2024-05-31"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "keyword": isinstance(value, str) and operator in ("eq", "ne", "in"),
        "text": isinstance(value, str) and operator == "text",
        "integer": is_number and operator != "text",
        "float": is_number and operator != "text",
        "bool": isinstance(value, bool) and operator in ("eq", "ne", "in"),
        "datetime": is_date and operator != "text",
    }
    expression = {"meta.x": {operator: [value] if operator == "in" else value}}
    if fits[kind]:
        assert parse_filter(expression, {"meta.x": kind}) is not None
    else:
        with pytest.raises(FilterError, match=rf"'meta\.x': .*\btype (is )?{kind}\b"):
            parse_filter(expression, {"meta.x": kind})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta.yaer", r"Unknown field 'meta\.yaer'.*Closest: 'meta\.year'.*meta\.place"),
        ("year", r"Closest: 'meta\.year'"),
        ("meta.years", r"Closest: 'meta\.year'"),
        ("meta.zzz", r"Known fields: bucket"),
        ("meta.place.city", r"Closest: 'meta\.place'"),
        ("meta.exif", "Unknown field 'meta.exif'"),
        ("x" * 100_000, "Unknown field 'x"),
    ],
)
def test_an_unknown_field_is_refused_with_the_closest_and_all_known_ones(name: str, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        parse_filter({name: {"eq": 1}}, KNOWN)
    assert len(str(caught.value)) < 1000
    assert "meta.NAME" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "countable", "groupable"),
    [
        ("tags", True, True),
        ("width", True, True),
        ("has_image", True, False),
        ("meta.year", True, True),
        ("meta.place", True, True),
        ("meta.price", False, False),
        ("meta.taken", False, False),
        ("uri", False, True),
        ("key", False, True),
        ("meta.exif.iso", True, True),
        ("last_modified", False, False),
    ],
)
def test_fields_with_plain_values_can_be_counted_and_grouped_by(name: str, countable: bool, groupable: bool) -> None:
    for check, fits in ((check_countable, countable), (check_groupable, groupable)):
        if fits:
            check(name, KNOWN)
        else:
            with pytest.raises(
                FilterError, match=r"cannot be .*Fields that can: .*meta\.exif\.iso, meta\.place, meta\.year"
            ):
                check(name, KNOWN)


@pytest.mark.parametrize("name", ["etag", "caption_hash"])
def test_a_field_without_an_index_is_refused_with_all_that_have_one(name: str) -> None:
    """Filters by them were accepted, and refused by a server in strict mode."""
    for check in (check_countable, check_groupable, lambda name, fields: parse_filter({name: {"eq": "a"}}, fields)):
        with pytest.raises(FilterError, match=rf"'{name}' cannot be compared: it has no index\. Known .*meta\.year"):
            check(name, KNOWN)


@pytest.mark.parametrize("operator", ["eq", "ne"])
def test_a_whole_text_has_no_index_either(operator: str) -> None:
    with pytest.raises(
        FilterError, match=r"'caption': its type is text: expected null \('text' finds words\), not 'a'"
    ):
        parse_filter({"caption": {operator: "a"}})


@pytest.mark.parametrize("check", [check_countable, check_groupable])
def test_counting_or_grouping_by_an_unknown_field_names_the_closest(check: Any) -> None:
    with pytest.raises(FilterError, match=r"Unknown field 'widht'\. Closest: 'width'"):
        check("widht", KNOWN)


def test_without_known_fields_any_meta_field_can_be_counted() -> None:
    check_countable("meta.anything")


# -- Hostile input --------------------------------------------------------------------------------------------------

_TEXTS = st.one_of(
    st.text(st.characters(), max_size=12),  # lone surrogates and NUL among them
    st.sampled_from(["2024-05-31", "2024-02-30", "0001-01-01T00:00+23:59", "\u0662\u0660\u0662\u0664-05-31", "a\x00b"]),
    st.sampled_from(["file:///%FFe\u0301", "file://file://%FFe\u0301"]),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63), 10**400]),
    st.floats(),
    _TEXTS,
)
_NAMES = st.one_of(st.sampled_from([*FIELDS, "meta.year", "meta.shot by", "and", "or", "not"]), _TEXTS)
_OPERATORS = st.one_of(st.sampled_from(["eq", "ne", "in", "gt", "gte", "lt", "lte", "text"]), _TEXTS)
_CONDITIONS = st.dictionaries(_OPERATORS, st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3)), max_size=3)
_FILTERS = st.recursive(
    st.one_of(st.dictionaries(_NAMES, _CONDITIONS, max_size=3), _SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(_NAMES, inner, max_size=2),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=20,
)


@pytest.mark.chaos("Fuzzing", "filters")
@given(_FILTERS, st.sampled_from([None, KNOWN]), st.booleans())
def test_any_json_value_is_a_filter_or_raises_filter_error(expression: Any, fields: Any, composed: bool) -> None:
    try:
        made = parse_filter(expression, fields, composed=composed)
    except FilterError as error:
        str(error).encode()  # can be sent in a response
        return
    if made is not None:
        json.loads(made.model_dump_json())  # can be sent to Qdrant


@pytest.mark.chaos("Fuzzing", "names of fields")
@given(_NAMES, st.sampled_from([None, KNOWN]))
def test_any_field_name_is_known_or_raises_filter_error(name: str, fields: Any) -> None:
    for check in (check_countable, check_groupable):
        try:
            check(name, fields)
        except FilterError as error:
            str(error).encode()


@pytest.mark.parametrize("name", ["key", "uri", "sources"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_path_matches_however_the_letters_of_its_parts_are_composed(name: str, form: Any) -> None:
    """A name typed with composed letters did not meet a key that macOS wrote."""
    typed = unicodedata.normalize(form, "Été/café.jpg")
    spellings = {unicodedata.normalize(each, typed) for each in ("NFC", "NFD")}
    for expression in ({name: {"eq": typed}}, {name: {"in": [typed]}}):
        made = parse_filter(expression)
        assert made is not None
        (condition,) = made.must
        assert spellings < set(condition.match.any)


@pytest.mark.parametrize("typed", ["Caf\u00e9", "cafe\u0301", "\uff23\uff21\uff26\u00c9"])
def test_words_are_compared_in_one_form_and_case(typed: str) -> None:
    made = parse_filter({"caption": {"text": typed}, "meta.notes": {"text": typed}}, {"meta.notes": "text"})
    text = models.MatchText(text="caf\u00e9")
    assert made == models.Filter(
        must=[
            models.FieldCondition(key="caption_words", match=text),
            models.FieldCondition(key="meta_words.notes", match=text),
        ]
    )


@pytest.mark.parametrize("name", ["tags", "meta.place"])
def test_other_texts_are_compared_in_composed_letters_alone(name: str) -> None:
    """Each was read as a path, and 1,000 of them became 64,000 values."""
    typed = unicodedata.normalize("NFD", "7/\u00e9/\u00e9/\u00e9/\u00e9/\u00e9/\u00e9")
    made = parse_filter({name: {"in": [typed]}})
    assert made is not None
    assert made.must[0].match.any == [unicodedata.normalize("NFC", typed)]


@pytest.mark.parametrize(
    "paths",
    [
        [f"{n}/\u00e9/\u00e9/\u00e9/\u00e9/\u00e9/\u00e9" for n in range(100)],
        [f"{n}/\u00e9/\u00e9/\u00e9/\u00e9/\u00e9/{'x' * 4000}" for n in range(40)],
    ],
    ids=["many", "long"],
)
def test_the_spellings_of_all_paths_of_a_filter_are_limited_together(paths: list[str]) -> None:
    for expression in ({"uri": {"in": paths}}, {"or": [{"key": {"ne": each}} for each in paths]}):
        with pytest.raises(FilterError, match=r"4,000 spellings or 4,096,000 characters.*Use fewer values"):
            parse_filter(expression)


def test_a_path_that_looks_like_a_uri_has_spellings() -> None:
    """Its bytes that are not UTF-8 ended in a `UnicodeEncodeError`."""
    for composed in (True, False):
        made = parse_filter({"uri": {"eq": "file://file://%FFe\u0301"}}, composed=composed)
        assert made is not None
        assert "file://file%3A//%FF%C3%A9" in made.model_dump_json()


def test_a_filter_takes_a_thousand_paths_with_an_accent() -> None:
    made = parse_filter({"uri": {"in": [f"s3://b/caf\u00e9/{n}.jpg" for n in range(MAX_FILTER_VALUES)]}})
    assert made is not None
    assert len(made.must[0].match.any) == 2 * MAX_FILTER_VALUES
