"""Points and collections that the tests of the store write."""

from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import numpy.typing as npt

from viewfinder.store import Collection, PointBatch, Store
from viewfinder.store.schema import ModelIdentity

DIMENSION = 4
MODEL = {"arch": "tiny", "licence": "MIT"}
AXES = np.eye(DIMENSION, dtype=np.float32)


def ids(count: int, prefix: str = "s3://b/") -> list[str]:
    return [str(uuid5(NAMESPACE_URL, f"{prefix}{number}")) for number in range(count)]


def opened(store: Store, index: str) -> Collection:
    return store.collections.open(index, ModelIdentity("ViT::tiny", "f00d", DIMENSION, MODEL))


def image_points(count: int, **fields: Sequence[Any]) -> PointBatch:
    """Return points whose image vectors are the axes in turn, with payload fields given as columns."""
    payloads = [
        {"uri": f"s3://b/{row}", "etag": f"e{row}", "sources": ["s3://b"]}
        | {name: column[row] for name, column in fields.items()}
        for row in range(count)
    ]
    return PointBatch(ids(count), payloads, image=AXES[np.arange(count) % DIMENSION])


CAPTIONS = ["a red car", "a red red bus", "a blue car on a long and winding road", "two birds", None]


def vector(*numbers: float) -> npt.NDArray[np.float32]:
    return np.array(numbers, np.float32)


def captioned(store: Store, index: str) -> Collection:
    """Write five images, the last without a caption."""
    made = opened(store, index)
    batch = image_points(
        5,
        caption=CAPTIONS,
        tags=[["car", "street"], ["street"], ["car"], [], ["bird"]],
        format=["jpeg", "png", "jpeg", "jpeg", "png"],
        width=[100, 200, 100, 300, 100],
        meta=[{"year": 1999, "shot by": "Ann"}, {"year": 2001}, {"year": 1999}, {"flash": True}, {}],
    )
    store.points.upsert(made, batch, wait=True)
    return made
