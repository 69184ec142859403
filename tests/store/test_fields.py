"""Fields of captions files and their kinds."""

import pytest

from viewfinder.store.fields import MAX_FIELDS, MAX_KEYWORD_CHARACTERS, Fields
from viewfinder.store.filters import parse_filter


def kinds(*records: dict[str, object]) -> dict[str, str]:
    fields = Fields()
    for record in records:
        fields.add(record)
    return fields.merged({})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "bool"),
        (3, "integer"),
        (2**70, "float"),
        (0.5, "float"),
        ("Rome", "keyword"),
        ("罗马", "keyword"),
        ("2024", "keyword"),
        ("20240531", "keyword"),
        ("2024-05-31", "datetime"),
        ("2024-05-31T12:00:00Z", "datetime"),
        ("2024-05-31 12:00:00+02:00", "datetime"),
        ("2024-13-31", "keyword"),
        ("2024-05-31 or later", "keyword"),
        ("x" * MAX_KEYWORD_CHARACTERS, "keyword"),
        ("x" * (MAX_KEYWORD_CHARACTERS + 1), "text"),
        (["a", "b"], "keyword"),
        ([1, 2.5], "float"),
    ],
)
def test_a_value_has_a_kind(value: object, kind: str) -> None:
    assert kinds({"field": value}) == {"meta.field": kind}


@pytest.mark.parametrize("value", [None, "", [], {}, [[1]], [{"a": 1}]])
def test_a_value_that_cannot_be_filtered_by_makes_no_field(value: object) -> None:
    assert kinds({"field": value}) == {}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1, 2.5), "float"),
        ((1, "one"), "keyword"),
        ((True, 1), "keyword"),
        (("2024-05-31", "unknown"), "keyword"),
        (("2024-05-31", ""), "datetime"),
        (("short", "x" * 200), "text"),
        ((1, "x" * 200), "text"),
    ],
)
def test_mixed_values_get_the_kind_that_fits_all(values: tuple[object, ...], kind: str) -> None:
    assert kinds(*({"field": value} for value in values)) == {"meta.field": kind}
    assert kinds(*({"field": value} for value in reversed(values))) == {"meta.field": kind}


def test_nested_fields_are_named_by_their_path() -> None:
    assert kinds({"camera": {"iso": 100, "lens": {"name": "50 mm"}}}) == {
        "meta.camera.iso": "integer",
        "meta.camera.lens.name": "keyword",
    }


@pytest.mark.parametrize("name", ["", "a.b", 'a"b', "a[0]", "a\nb", "x" * 101])
def test_names_that_filters_cannot_contain_are_left_out(name: str) -> None:
    assert set(kinds({name: 1, "good": 1})) <= {"meta.good", "meta.a.b"}


def test_every_field_can_be_filtered_by() -> None:
    fields = kinds({"odd name": 1, "naïve": "x", "a-b_c": True, "deep": {"er": {"still": 1}}})
    assert len(fields) == 4
    for name in fields:
        parse_filter({name: {"eq": 1}}, fields)


def test_known_fields_come_first_and_the_rarest_are_left_out() -> None:
    fields = Fields()
    for number in range(MAX_FIELDS + 10):
        for _ in range(1 + (number >= 20)):
            fields.add({f"field{number:03}": number})
    merged = fields.merged({"meta.old": "keyword", "meta.field000": "integer"})
    assert len(merged) == MAX_FIELDS
    assert {"meta.old", "meta.field000", "meta.field073", "meta.field001"} <= merged.keys()
    assert "meta.field019" not in merged


def test_a_kind_only_becomes_wider() -> None:
    fields = Fields()
    fields.add({"a": 1, "b": "x"})
    assert fields.merged({"meta.a": "float", "meta.b": "text", "meta.c": "bool"}) == {
        "meta.a": "float",
        "meta.b": "text",
        "meta.c": "bool",
    }
