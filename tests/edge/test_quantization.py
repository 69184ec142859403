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
# With the range of the largest error of a cosine of quantized vectors.
KINDS = {
    "none": (None, (1e-5, 0.005)),
    "int8": ({"scalar": {"type": "int8", "always_ram": True}}, (1e-5, 0.005)),
    "4bit": ({"turbo": {"bits": "bits4", "always_ram": True}}, (0.005, 0.05)),
}
OPERATIONS = pytest.mark.parametrize("operation", ["query", "query/groups"])


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, ...]]:
    monkeypatch.setattr(shard, "_EXACT_KB", 200)
    quantization, error = KINDS[request.param]
    engine = Engine(tmp_path, durable=False)
    vector = {"size": DIMENSION, "distance": "Cosine", "on_disk": True, "quantization_config": quantization}
    engine.answer("PUT", "/collections/a", {"vectors": {"image": vector}})
    yield engine, error
    engine.close()


def write(engine: Engine, rows: range, images: Any = IMAGES) -> None:
    points = [{"id": id_of(row), "vector": {"image": images[row].tolist()}, "payload": {"row": row}} for row in rows]
    engine.answer("PUT", "/collections/a/points", {"points": points})


def search(engine: Engine, text: Any, params: Any, operation: str = "query") -> list[tuple[int, float]]:
    body = {"query": text.tolist(), "using": "image", "limit": 10, "with_payload": True, "params": params}
    if operation == "query/groups":
        groups = engine.answer("POST", "/collections/a/points/query/groups", body | {"group_by": "row"})["groups"]
        return [(each["id"], each["hits"][0]["score"]) for each in groups]
    points = engine.answer("POST", "/collections/a/points/query", body)["points"]
    return [(each["payload"]["row"], each["score"]) for each in points]


@OPERATIONS
def test_many_points_are_compared_by_quantized_vectors_and_ranked_by_the_originals(
    made: tuple[Engine, tuple[float, float]], operation: str
) -> None:
    engine, (least, most) = made
    write(engine, range(MANY))
    shares, errors = [], []
    for text in TEXTS:
        exact, found = search(engine, text, ORIGINALS, operation), search(engine, text, RESCORED, operation)
        assert [score for _, score in exact] == pytest.approx(sorted(IMAGES @ text)[: -10 - 1 : -1], abs=1e-6)
        assert [score for _, score in found] == pytest.approx([IMAGES[row] @ text for row, _ in found], abs=1e-6)
        shares.append(len({*exact} & {*found}) / 10)
        errors += [abs(score - IMAGES[row] @ text) for row, score in search(engine, text, QUANTIZED, operation)]
    assert np.mean(shares) >= 0.98
    assert least < max(errors) < most


@OPERATIONS
def test_few_points_are_compared_by_the_originals(made: tuple[Engine, Any], operation: str) -> None:
    engine, _ = made

    def differ() -> list[bool]:
        found = [[search(engine, text, each, operation) for each in (QUANTIZED, ORIGINALS)] for text in TEXTS]
        return [one != other for one, other in found]

    write(engine, range(FEW))
    assert not any(differ())
    write(engine, range(FEW, MANY))
    assert any(differ())
    engine.answer("POST", "/collections/a/points/delete", {"points": [id_of(row) for row in range(FEW, MANY)]})
    assert not any(differ())


@pytest.mark.parametrize("made", ["none", "int8"], indirect=True)
def test_pages_of_near_equal_images_lose_none(made: tuple[Engine, Any]) -> None:
    """With 2 candidates for each hit, a page ranked others than the one before, and some images were on none."""
    engine, _ = made
    frames = (
        IMAGES[0] + 0.025 * np.random.default_rng(6).normal(size=IMAGES.shape) / DIMENSION**0.5
    )  # cosines of 0.9994
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    write(engine, range(MANY), frames)
    for text in TEXTS:
        body = {"query": text.tolist(), "using": "image", "limit": 5, "with_payload": True, "params": RESCORED}
        pages = [
            engine.answer("POST", "/collections/a/points/query", body | {"offset": first})["points"]
            for first in (0, 5, 10)
        ]
        found = [point["payload"]["row"] for page in pages for point in page]
        assert len(set(found)) == 15
        assert {*found} >= {*np.argsort(-(frames @ text))[:10].tolist()}


def test_an_unknown_quantization_is_refused(tmp_path: Path) -> None:
    engine = Engine(tmp_path, durable=False)
    vector = {"size": 4, "distance": "Cosine", "quantization_config": {"binary": {}}}
    engine.answer("PUT", "/collections/a", {"vectors": {"image": vector}})
    with pytest.raises(Refusal, match="unknown quantization 'binary'"):
        engine.answer("POST", "/collections/a/points/count", {})
    engine.close()
