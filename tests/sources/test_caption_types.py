"""Types of the fields of captions files."""

import pytest

from viewfinder.errors import ConfigurationError
from viewfinder.sources.caption_types import MAX_KEYWORD_CHARACTERS, FieldSurvey, FieldTypes, nested, plain


def surveyed(*records: dict[str, object]) -> FieldSurvey:
    survey = FieldSurvey()
    for record in records:
        survey.add(record)
    return survey


def column(*cells: object) -> tuple[str | None, list[object]]:
    """The type of a column with these cells, and the cells as they are stored."""
    types = FieldTypes({"c.csv": surveyed(*({"field": cell} for cell in cells))})
    return types.kinds.get("meta.field"), [types.convert({"field": cell}).get("field") for cell in cells]


@pytest.mark.parametrize(
    ("cell", "kind", "stored"),
    [
        (True, "bool", True),
        (3, "integer", 3),
        (2**63 - 1, "integer", 2**63 - 1),
        (2**64 - 1, "float", float(2**64 - 1)),
        (-(2**63), "float", -float(2**63)),
        (2**70, "float", float(2**70)),
        (10**400, "text", str(10**400)),
        ([2**64, 1], "float", [float(2**64), 1]),
        ([[2**64], {"deep": [-(2**80), "a"]}], None, [[float(2**64)], {"deep": [-float(2**80), "a"]}]),
        ("1e+999", "keyword", "1e+999"),
        ("-9.5e999", "keyword", "-9.5e999"),
        (float("inf"), "keyword", "Infinity"),
        (0.5, "float", 0.5),
        ("Rome", "keyword", "Rome"),
        ("罗马", "keyword", "罗马"),
        ("2020", "integer", 2020),
        ("-4", "integer", -4),
        ("0", "integer", 0),
        ("4.50", "float", 4.5),
        (".5", "float", 0.5),
        ("-0.25", "float", -0.25),
        ("1.2E+05", "float", 120000.0),
        ("1E-3", "float", 0.001),
        ("TRUE", "bool", True),
        ("false", "bool", False),
        ("20240531", "integer", 20240531),
        ("2024-05-31", "datetime", "2024-05-31"),
        ("2024-05-31T12:00:00Z", "datetime", "2024-05-31T12:00:00+00:00"),
        ("2024-05-31 12:00:00+02:00", "datetime", "2024-05-31T12:00:00+02:00"),
        ("2024-05-31 12:00", "datetime", "2024-05-31T12:00:00"),
        ("2024-05-31T12:00:00.5+0200", "datetime", "2024-05-31T12:00:00.500000+02:00"),
        (["1", "2.5"], "float", [1, 2.5]),
        (["a", "b"], "keyword", ["a", "b"]),
    ],
)
def test_a_value_has_the_type_that_it_reads_as(cell: object, kind: str | None, stored: object) -> None:
    assert column(cell) == (kind, [stored])
    assert type(column(cell)[1][0]) is type(stored)


@pytest.mark.parametrize(
    "cell",
    [
        "007",
        "-007",
        "00.5",
        "+491511234567",
        "+5",
        "1,234",
        "1.234,5",
        "1 234",
        "1_000",
        "12e3",
        "0x10",
        "1e5",
        "1234567890123456789",
        "１２３",
        "5.",
        "1.2.3",
        "50%",
        "12 mm",
        "-",
        "inf",
        "Infinity",
        "yes",
        "no",
        "Y",
        "2024-13-31",
        "2024-W01",
        "31.05.2024",
        "05/31/2024",
        "2024-05-31 or later",
        "12:30",
    ],
)
def test_identifiers_and_other_spellings_of_numbers_and_dates_are_text(cell: str) -> None:
    assert column(cell) == ("keyword", [cell])


def test_a_long_text_is_indexed_as_words() -> None:
    assert column("x" * MAX_KEYWORD_CHARACTERS)[0] == "keyword"
    assert column("x" * (MAX_KEYWORD_CHARACTERS + 1))[0] == "text"
    assert column("9" * (MAX_KEYWORD_CHARACTERS + 1))[0] == "text"


@pytest.mark.parametrize("value", [None, "", [], {}, [[1]], [{"a": 1}]])
def test_a_value_that_cannot_be_filtered_by_makes_no_field(value: object) -> None:
    assert column(value)[0] is None


@pytest.mark.parametrize(
    ("cells", "kind", "stored"),
    [
        (("1", "2.5"), "float", [1, 2.5]),
        ((1, "2"), "integer", [1, 2]),
        ((1, "one"), "keyword", ["1", "one"]),
        ((0.5, "half"), "keyword", ["0.5", "half"]),
        (("1", "007"), "keyword", ["1", "007"]),
        (("4.50", "n. a."), "keyword", ["4.50", "n. a."]),
        ((True, 1), "keyword", ["true", "1"]),
        (("true", "0"), "keyword", ["true", "0"]),
        (("2024-05-31", "unknown"), "keyword", ["2024-05-31", "unknown"]),
        (("2024-05-31", "2024"), "keyword", ["2024-05-31", "2024"]),
        (("2024-05-31", "2024-06-01T10:00:00"), "datetime", ["2024-05-31", "2024-06-01T10:00:00"]),
        (("short", "x" * 200), "text", ["short", "x" * 200]),
        ((1, "x" * 200), "text", ["1", "x" * 200]),
        ((["1", "one"], 2), "keyword", [["1", "one"], "2"]),
    ],
)
def test_a_column_has_the_type_that_fits_all_of_its_cells(
    cells: tuple[object, ...], kind: str, stored: list[object]
) -> None:
    assert column(*cells) == (kind, stored)
    assert column(*reversed(cells)) == (kind, stored[::-1])


@pytest.mark.parametrize("word", ["NaN", "nan", "NA", "N/A", "#N/A", "NaT", "null", "None", ""])
def test_words_for_no_value_are_empty_cells_of_a_typed_column_and_text_in_others(word: str) -> None:
    assert column("2020", word) == ("integer", [2020, None])
    assert column(word, "2024-05-31") == ("datetime", [None, "2024-05-31"])
    assert column("true", word) == ("bool", [True, None])
    assert column(["1", word]) == ("integer", [[1]])
    assert column("Namibia", word) == ("keyword", ["Namibia", word])


def test_a_column_of_words_for_no_value_alone_is_text() -> None:
    """NA is the code of Namibia, None may be a name."""
    assert column("NA", "NA") == ("keyword", ["NA", "NA"])


def test_nested_fields_are_named_by_their_path_and_converted() -> None:
    record = {"camera": {"iso": "100", "lens": {"name": "50 mm"}}, "other": None}
    types = FieldTypes({"c.jsonl": surveyed(record)})
    assert types.kinds == {"meta.camera.iso": "integer", "meta.camera.lens.name": "keyword"}
    assert types.convert(record) == {"camera": {"iso": 100, "lens": {"name": "50 mm"}}, "other": None}


def test_all_files_of_a_run_agree_and_a_conflict_is_told_with_both_files() -> None:
    types = FieldTypes(
        {
            "s3://b/a.csv": surveyed({"year": "2020", "iso": "100", "name": "1"}),
            "s3://b/b.jsonl": surveyed({"year": "unknown", "iso": 0.5, "place": "Rome"}),
        }
    )
    assert types.kinds == {
        "meta.iso": "float",
        "meta.year": "keyword",
        "meta.name": "integer",
        "meta.place": "keyword",
    }
    assert types.convert({"year": 2020, "iso": "100"}) == {"year": "2020", "iso": 100}
    (conflict,) = types.conflicts()
    assert conflict == (
        "The field 'year' is a number in 's3://b/a.csv' and text in 's3://b/b.jsonl', so it is compared as text."
    )


def test_a_mixed_column_of_one_file_is_no_conflict() -> None:
    assert FieldTypes({"a.csv": surveyed({"title": "2020"}, {"title": "Summer"})}).conflicts() == []


def test_the_type_that_files_of_earlier_runs_gave_counts_too() -> None:
    known = {"meta.year": "keyword", "meta.iso": "integer", "meta.old": "bool"}
    types = FieldTypes({"a.csv": surveyed({"year": "2020", "iso": "0.5"})}, known)
    assert types.kinds == {"meta.iso": "float", "meta.year": "keyword"}
    (conflict,) = types.conflicts()
    assert "'year' is a number in 'a.csv' and text in the files of earlier runs" in conflict


def test_fields_are_ordered_by_their_number_of_values() -> None:
    types = FieldTypes({"a": surveyed({"rare": 1}, {"often": 1}, {"often": ""}), "b": surveyed({"often": 1})})
    assert list(types.kinds) == ["meta.often", "meta.rare"]


def test_a_value_that_has_become_unreadable_since_the_survey_is_left_out() -> None:
    types = FieldTypes({"a.csv": surveyed({"n": "1", "d": "2024-05-31", "b": "true"})})
    assert types.convert({"n": "one", "d": "May", "b": "2"}) == {}


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({"exif.iso": 1, "exif.model": "x", "a": 2}, {"exif": {"iso": 1, "model": "x"}, "a": 2}),
        ({"a.b.c": 1, "a.b.d": 2}, {"a": {"b": {"c": 1, "d": 2}}}),
        ({"a": {"b": 1}, "a.c": 2}, {"a": {"b": 1, "c": 2}}),
        ({"a.c": 2, "a": {"b": 1}}, {"a": {"c": 2, "b": 1}}),
        ({"a": {"b.c": 1}}, {"a": {"b": {"c": 1}}}),
        ({"Nr.": 1, "a..b": 2, ". x": 3}, {"Nr": 1, "a": {"b": 2}, "x": 3}),
        ({"...": 1}, {"...": 1}),
    ],
)
def test_a_dot_in_a_name_means_a_field_inside_another(fields: dict[str, object], made: dict[str, object]) -> None:
    assert nested(fields, "line 1") == made


@pytest.mark.parametrize(
    "fields", [{"exif": 1, "exif.iso": 2}, {"exif.iso": 2, "exif": 1}, {"a.b": 1, "a": {"b": 2}}, {"Nr": 1, "Nr.": 2}]
)
def test_two_fields_of_the_same_name_are_refused_with_the_place(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^line 3: the field '.*' collides with another one.*Rename"):
        nested(fields, "line 3")


def test_values_that_json_lacks_become_text_or_nothing() -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf"), b"x"], "c": (1, None), 3: {"d": None}}
    assert plain(value) == {"b": [1.5, "b'x'"], "c": [1], "3": {}}


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a")])
def test_fields_inside_a_field_are_merged_in_any_order(names: tuple[str, str]) -> None:
    values = {"a": {"b": {"c": 1}}, "a.b": {"d": 2}}
    assert nested({name: values[name] for name in names}, "row 1") == {"a": {"b": {"c": 1, "d": 2}}}
    values["a.b"]["c"] = {}
    with pytest.raises(ConfigurationError, match="collides"):
        nested({name: values[name] for name in names}, "row 1")
