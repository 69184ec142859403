"""Fields of a captions file are recorded and indexed for filters."""

import json

import pytest

from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill
from viewfinder.errors import ConfigurationError, FilterError
from viewfinder.indexing.caption_fields import MAX_FIELDS, record_fields
from viewfinder.sources.caption_types import FieldSurvey, FieldTypes
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

NAMES = [f"{number:02}.jpg" for number in range(3)]


def describe(world: World, records: dict[str, object]) -> tuple[str, str]:
    (world.bucket / "captions.json").write_text(json.dumps(records))
    return "--captions", f"{world.source}/captions.json"


def test_fields_are_recorded_with_their_kinds_and_can_be_filtered(world: World) -> None:
    fill(world.bucket, NAMES)
    flags = describe(
        world,
        {
            "00.jpg": {"caption": "one", "year": 1999, "camera": {"iso": 100}, "taken": "2024-05-31"},
            "01.jpg": {"caption": "two", "year": 2005, "licence": "CC0", "taken": "2024-06-01T12:00:00Z"},
            "02.jpg": "three",
        },
    )
    world.sync(*flags)
    assert world.collection.recorded.fields == {
        "meta.year": "integer",
        "meta.camera.iso": "integer",
        "meta.licence": "keyword",
        "meta.taken": "datetime",
    }
    found = world.store.points.iterate(world.collection, {"meta.year": {"gte": 2000}})
    assert [record.payload["key"] for record in found] == ["01.jpg"]
    assert world.store.search.facet(world.collection, "meta.licence") == [("CC0", 1)]
    with pytest.raises(FilterError, match=r"meta\.yaer"):
        world.store.search.facet(world.collection, "meta.yaer")


def test_later_runs_add_to_the_known_fields(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync(*describe(world, {"00.jpg": {"caption": "", "year": 1999, "score": 3}}))
    world.sync(*describe(world, {"01.jpg": {"caption": "", "place": "Rome", "score": 0.5}}))
    assert world.collection.recorded.fields == {
        "meta.year": "integer",
        "meta.place": "keyword",
        "meta.score": "float",
    }
    world.sync()
    assert len(world.collection.recorded.fields) == 3


def test_fields_are_indexed_before_their_data_is_written(world: World, qdrant: QdrantDouble) -> None:
    fill(world.bucket, NAMES)
    before = len(qdrant.requests)
    world.sync(*describe(world, {"00.jpg": {"caption": "", "odd name": 1}}))
    said = [f"{request.method} {request.path}" for request in qdrant.requests[before:]]
    index = next(place for place, each in enumerate(said) if each.startswith("PUT") and "/index" in each)
    assert index < next(place for place, each in enumerate(said) if each.startswith("PUT") and "/points" in each)


def describe_csv(world: World, name: str, text: str) -> tuple[str, str]:
    (world.bucket / name).write_text(text)
    return "--captions", f"{world.source}/{name}"


def found(world: World, filter: dict[str, object]) -> list[str]:
    return sorted(record.payload["key"] for record in world.store.points.iterate(world.collection, filter))


def test_numbers_booleans_and_dates_of_a_csv_file_can_be_compared(world: World) -> None:
    """CSV cells stayed text, so that a range found nothing."""
    fill(world.bucket, NAMES)
    table = (
        "key,caption,year,f,flash,taken,serial\n"
        "00.jpg,one,1999,2.8,TRUE,2024-05-31,007\n"
        "01.jpg,two,2020,4,false,2024-06-01 12:00,008\n"
        "02.jpg,three,NaN,,,,x\n"
    )
    world.sync(*describe_csv(world, "c.csv", table))
    assert world.collection.recorded.fields == {
        "meta.year": "integer",
        "meta.f": "float",
        "meta.flash": "bool",
        "meta.taken": "datetime",
        "meta.serial": "keyword",
    }
    assert found(world, {"meta.year": {"gte": 2020}}) == ["01.jpg"]
    assert found(world, {"meta.f": {"lt": 3}}) == ["00.jpg"]
    assert found(world, {"meta.flash": {"eq": True}}) == ["00.jpg"]
    assert found(world, {"meta.taken": {"gt": "2024-05-31"}}) == ["01.jpg"]
    assert found(world, {"meta.serial": {"eq": "007"}}) == ["00.jpg"]
    assert world.store.search.facet(world.collection, "meta.flash") == [(False, 1), (True, 1)]


def test_the_captions_files_of_a_run_agree_on_the_type_of_a_field(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.bucket, NAMES)
    numbers = describe_csv(world, "numbers.csv", "key,caption,year\n00.jpg,one,1999\n")
    world.sync(*numbers)
    assert found(world, {"meta.year": {"lt": 2000}}) == ["00.jpg"]
    texts = describe_csv(world, "texts.csv", "key,caption,year\n01.jpg,two,about 2000\n")
    world.sync(*numbers, *texts)
    assert world.collection.recorded.fields == {"meta.year": "keyword"}
    assert found(world, {"meta.year": {"in": ["1999", "about 2000"]}}) == ["00.jpg", "01.jpg"]
    assert "'year' is a number in" in caplog.text
    texts = describe_csv(world, "texts.csv", "key,caption,year\n01.jpg,two,2000\n")
    world.sync(*numbers, *texts)
    assert world.collection.recorded.fields == {"meta.year": "integer"}
    assert found(world, {"meta.year": {"gte": 1999}}) == ["00.jpg", "01.jpg"]


def test_a_run_over_some_of_the_captions_files_keeps_a_field_text_that_is_text_in_the_others(world: World) -> None:
    fill(world.bucket, NAMES)
    world.sync(*describe_csv(world, "texts.csv", "key,caption,year\n01.jpg,two,about 2000\n"))
    world.sync(*describe_csv(world, "numbers.csv", "key,caption,year\n00.jpg,one,1999\n"))
    assert world.collection.recorded.fields == {"meta.year": "keyword"}
    assert found(world, {"meta.year": {"in": ["1999", "about 2000"]}}) == ["00.jpg", "01.jpg"]


def test_an_unchanged_captions_file_with_numbers_changes_nothing(world: World) -> None:
    fill(world.bucket, NAMES)
    flags = describe_csv(world, "c.csv", "key,caption,year,f\n00.jpg,one,1999,2.80\n01.jpg,two,NaN,4\n")
    world.sync(*flags)
    assert world.sync(*flags)["unchanged"] == len(NAMES)


def test_a_column_with_a_dot_in_its_name_is_listed_and_can_be_filtered(world: World) -> None:
    """The field was listed as meta.exif.iso, which found nothing."""
    fill(world.bucket, NAMES)
    world.sync(*describe_csv(world, "c.csv", "key,caption,exif.iso,Nr.\n00.jpg,one,100,1\n01.jpg,two,400,2\n"))
    assert world.collection.recorded.fields == {"meta.exif.iso": "integer", "meta.Nr": "integer"}
    assert found(world, {"meta.exif.iso": {"gte": 200}}) == ["01.jpg"]
    assert found(world, {"meta.Nr": {"eq": 1}}) == ["00.jpg"]


def test_columns_that_collide_at_a_dot_are_refused_before_anything_is_listed(world: World) -> None:
    fill(world.bucket, NAMES)
    with pytest.raises(ConfigurationError, match=r"--captions: .*c\.csv' line 2: the field 'exif\.iso' collides"):
        world.sync(*describe_csv(world, "c.csv", "key,caption,exif,exif.iso\n00.jpg,one,yes,100\n"))


def recorded_from(world: World, records: dict[str, object]) -> dict[str, str]:
    fields = FieldTypes({"c.json": _survey(records)}).kinds
    return record_fields(world.store, world.collection, fields)


def _survey(meta: dict[str, object]) -> FieldSurvey:
    survey = FieldSurvey()
    survey.add(meta)
    return survey


@pytest.mark.parametrize("name", ['a"b', "a[0]", "size [mm]", "a\nb", "x" * 101])
def test_a_field_that_no_filter_can_name_is_not_listed_but_told(
    world: World, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.bucket, NAMES[:1])
    world.sync()
    assert recorded_from(world, {name: 1, "good one": 1, "naïve": "x", "deep": {"er": 1}}) == {
        "meta.good one": "integer",
        "meta.naïve": "keyword",
        "meta.deep.er": "integer",
    }
    assert repr(f"meta.{name}") in caplog.text
    assert "rename them" in caplog.text


def test_known_fields_come_first_and_the_rarest_are_left_out_and_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.bucket, NAMES[:1])
    world.sync()
    record_fields(world.store, world.collection, {"meta.old": "keyword", "meta.f010": "keyword"})
    fields = {f"meta.f{number:03}": "integer" for number in range(MAX_FIELDS + 10)}
    merged = record_fields(world.store, world.collection, fields)
    assert len(merged) == MAX_FIELDS
    assert (merged["meta.old"], merged["meta.f010"]) == ("keyword", "integer")
    assert f"meta.f{MAX_FIELDS - 2:03}" in merged
    assert f"meta.f{MAX_FIELDS - 1:03}" not in merged
    assert f"not these: 'meta.f{MAX_FIELDS - 1:03}'" in caplog.text
