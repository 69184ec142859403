"""The engine that makes indexes when they are needed answers as the one that has them from the start."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.writing import id_of
from viewfinder.edge.engine import Engine
from viewfinder.edge.refusal import Refusal
from viewfinder.testing.lazy_engine import LazyEngine

pytestmark = pytest.mark.slow

COUNT = 60
SCHEMA = {"vectors": {"image": {"size": 4, "distance": "Cosine"}}}
FIELDS = {
    "word": "keyword",
    "number": "integer",
    "share": "float",
    "good": "bool",
    "at": "datetime",
    "of": "uuid",
    "caption": {"type": "text", "scoring": True},
}


def payload(number: int) -> dict[str, Any]:
    of = str(uuid.UUID(int=number % 5))
    return {
        "word": ["red", "green", 7, True][number % 4],
        "number": [number, number + 0.5, "1"][number % 3],
        "share": number / 7,
        "good": [True, False, "true"][number % 3],
        "at": f"2026-01-{1 + number % 28:02}T00:00:00Z",
        "of": of.upper() if number % 2 else of,
        "caption": f"a {['red', 'green'][number % 2]} car {number}",
    }


def filled(engine: Engine) -> Engine:
    engine.answer("PUT", "/collections/a", SCHEMA)
    for name, kind in FIELDS.items():
        engine.answer("PUT", "/collections/a/index", {"field_name": name, "field_schema": kind})
    points = [
        {"id": id_of(number), "vector": {"image": [1.0, number, 0, 0]}, "payload": payload(number)}
        for number in range(COUNT)
    ]
    engine.answer("PUT", "/collections/a/points", {"points": points})
    return engine


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = filled(Engine(tmp_path_factory.mktemp("indexed"), durable=False))
    yield engine
    engine.close()


@pytest.fixture
def engines(indexed: Engine, tmp_path: Path) -> Iterator[list[Engine]]:
    lazy = filled(LazyEngine(tmp_path, durable=False))
    yield [indexed, lazy]
    lazy.close()


CONDITIONS = [
    {"key": "word", "match": {"value": "red"}},
    {"key": "word", "match": {"any": ["red", "green"]}},
    {"key": "word", "match": {"except": ["red"]}},
    {"key": "number", "match": {"value": 1}},
    {"key": "number", "range": {"gte": 1}},
    {"key": "share", "range": {"lt": 3.5}},
    {"key": "good", "match": {"value": True}},
    {"key": "at", "range": {"gt": "2026-01-14T00:00:00Z"}},
    {"key": "of", "match": {"value": str(uuid.UUID(int=2))}},
    {"key": "caption", "match": {"text": "red car"}},
    {"is_empty": {"key": "word"}},
    {"has_id": [id_of(1), id_of(2)]},
]


# The engine estimates ranges of times from random samples.
CASES = [(each, exact) for exact in (True, False) for each in CONDITIONS if exact or each.get("key") != "at"]


@pytest.mark.parametrize(("condition", "exact"), CASES, ids=lambda value: str(value)[:60])
def test_the_same_points_match(engines: list[Engine], condition: dict[str, Any], exact: bool) -> None:
    expected, counted = (
        engine.answer("POST", "/collections/a/points/count", {"filter": {"must": [condition]}, "exact": exact})
        for engine in engines
    )
    assert counted == expected


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("points/scroll", {"order_by": "number", "limit": 100}),
        ("facet", {"key": "word"}),
    ],
)
def test_the_same_answers(engines: list[Engine], operation: str, body: dict[str, Any]) -> None:
    expected, answer = (engine.answer("POST", f"/collections/a/{operation}", body) for engine in engines)
    assert answer == expected


def test_words_find_the_same(engines: list[Engine]) -> None:
    body = {"query": {"text": "17"}, "using": "caption", "limit": 5}
    expected, answer = (engine.answer("POST", "/collections/a/points/query", body)["points"] for engine in engines)
    assert [(hit["id"], hit["score"]) for hit in answer] == [(hit["id"], hit["score"]) for hit in expected]
    assert [hit["id"] for hit in answer] == [id_of(17)]


def test_an_unknown_kind_of_index_is_refused(engines: list[Engine]) -> None:
    for engine in engines:
        with pytest.raises(Refusal, match="unknown kind of index"):
            engine.answer("PUT", "/collections/a/index", {"field_name": "x", "field_schema": "nope"})
