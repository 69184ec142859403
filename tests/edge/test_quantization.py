"""Searches of many points compare quantized vectors first, those of few the originals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.edge.writing import id_of
from viewfinder.edge import shard
from viewfinder.edge.engine import Engine
from viewfinder.edge.refusal import Refusal

pytestmark = pytest.mark.slow

DIMENSION, FEW, MANY = 256, 100, 400  # 100 and 400 kB
# As those of a CLIP model are: all images are similar, and a text is not similar to any.
_RNG = np.random.default_rng(5)
IMAGES = 1.5 + _RNG.normal(size=(MANY, DIMENSION))
IMAGES /= np.linalg.norm(IMAGES, axis=1, keepdims=True)
TEXTS = _RNG.normal(size=(20, DIMENSION))
TEXTS /= np.linalg.norm(TEXTS, axis=1, keepdims=True)
ORIGINALS = {"exact": True}
RESCORED = {"quantization": {"rescore": True, "oversampling": 2.0}}
QUANTIZED = {"quantization": {"rescore": False}}
KINDS = {
    "none": (None, 0.98),
    "int8": ({"scalar": {"type": "int8"}}, 0.98),
    "4bit": ({"turbo": {"bits": "bits4"}}, 0.6),
}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, ...]]:
    monkeypatch.setattr(shard, "_EXACT_KB", 200)
    quantization, recall = KINDS[request.param]
    engine = Engine(tmp_path, durable=False)
    vector = {"size": DIMENSION, "distance": "Cosine", "on_disk": True, "quantization_config": quantization}
    engine.answer("PUT", "/collections/a", {"vectors": {"image": vector}})
    yield engine, recall
    engine.close()


def write(engine: Engine, rows: range) -> None:
    points = [{"id": id_of(row), "vector": {"image": IMAGES[row].tolist()}, "payload": {"row": row}} for row in rows]
    engine.answer("PUT", "/collections/a/points", {"points": points})


def search(engine: Engine, text: Any, params: Any, operation: str = "query") -> list[tuple[int, float]]:
    body = {"query": text.tolist(), "using": "image", "limit": 10, "with_payload": True, "params": params}
    if operation == "query/groups":
        groups = engine.answer("POST", "/collections/a/points/query/groups", body | {"group_by": "row"})["groups"]
        return [(each["id"], each["hits"][0]["score"]) for each in groups]
    points = engine.answer("POST", "/collections/a/points/query", body)["points"]
    return [(each["payload"]["row"], each["score"]) for each in points]


@pytest.mark.parametrize("operation", ["query", "query/groups"])
def test_many_points_are_compared_by_quantized_vectors_and_ranked_by_the_originals(
    made: tuple[Engine, float], operation: str
) -> None:
    engine, recall = made
    write(engine, range(MANY))
    shares = []
    for text in TEXTS:
        exact, found = search(engine, text, ORIGINALS, operation), search(engine, text, RESCORED, operation)
        assert [score for _, score in exact] == pytest.approx(sorted(IMAGES @ text)[: -10 - 1 : -1], abs=1e-6)
        assert [score for _, score in found] == pytest.approx([IMAGES[row] @ text for row, _ in found], abs=1e-6)
        shares.append(len({*exact} & {*found}) / 10)
    assert np.mean(shares) >= recall
    approximate = [score - IMAGES[row] @ text for text in TEXTS for row, score in search(engine, text, QUANTIZED)]
    assert max(map(abs, approximate)) > 1e-5


def test_few_points_are_compared_by_the_originals(made: tuple[Engine, float]) -> None:
    engine, _ = made
    write(engine, range(FEW))
    for text in TEXTS:
        assert search(engine, text, QUANTIZED) == search(engine, text, ORIGINALS)
    write(engine, range(FEW, MANY))
    assert any(search(engine, text, QUANTIZED) != search(engine, text, ORIGINALS) for text in TEXTS)
    engine.answer("POST", "/collections/a/points/delete", {"points": [id_of(row) for row in range(FEW, MANY)]})
    for text in TEXTS:
        assert search(engine, text, QUANTIZED) == search(engine, text, ORIGINALS)


def test_an_unknown_quantization_is_refused(tmp_path: Path) -> None:
    engine = Engine(tmp_path, durable=False)
    vector = {"size": 4, "distance": "Cosine", "quantization_config": {"binary": {}}}
    engine.answer("PUT", "/collections/a", {"vectors": {"image": vector}})
    with pytest.raises(Refusal, match="unknown quantization 'binary'"):
        engine.answer("POST", "/collections/a/points/count", {})
    engine.close()
