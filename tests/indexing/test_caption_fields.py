"""Fields of a captions file are recorded and indexed for filters."""

import json

import pytest

from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill
from viewfinder.errors import FilterError
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
