"""An engine with one collection, whose points have a number."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.edge.writing import id_of
from viewfinder.edge.engine import Engine

SCHEMA = {"vectors": {"image": {"size": 4, "distance": "Cosine"}}, "metadata": {"x": 1}}


def put(engine: Engine, *numbers: int, name: str = "a", **payload: Any) -> None:
    points = [
        {"id": id_of(each), "vector": {"image": [1.0, each, 0, 0]}, "payload": {"number": each, **payload}}
        for each in numbers
    ]
    engine.answer("PUT", f"/collections/{name}/points", {"points": points})


def numbers(engine: Engine, name: str = "a") -> list[int]:
    found = engine.answer("POST", f"/collections/{name}/points/scroll", {"limit": 1000})
    return [each["payload"]["number"] for each in found["points"]]


def made(directory: Path) -> Engine:
    engine = Engine(directory)
    engine.answer("PUT", "/collections/a", SCHEMA)
    return engine


def kill_process(engine: Engine, name: str = "a") -> None:
    """Kill the process of a collection."""
    opened: Any = engine._open[name]
    os.kill(opened._shard.pid, signal.SIGKILL)
