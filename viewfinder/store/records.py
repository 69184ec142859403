"""Values written to and read from collections: batches, states, records, hits."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from qdrant_client import models

from viewfinder.arrays import Mask, Vectors, have_direction
from viewfinder.store.schema import VECTOR_NAMES, VectorName
from viewfinder.store.words import HIDDEN_FIELDS

_POINT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_point_id(text: str) -> bool:
    """Return True for a valid point id. Other ids need no request, because no point has one."""
    return _POINT_ID.fullmatch(text) is not None


def payload_selector(wanted: bool | Sequence[str]) -> Any:
    """Return Qdrant's selector of payload fields: all but the hidden ones, none, or those named."""
    if isinstance(wanted, bool):
        return models.PayloadSelectorExclude(exclude=list(HIDDEN_FIELDS)) if wanted else False
    return list(wanted)


@dataclass(frozen=True)
class PointState:
    """The fields that decide if a point is up to date. Every write changes `sources`, `run_id` or `indexed_at`."""

    etag: str
    caption_hash: str
    sources: tuple[str, ...]
    has_image: bool
    has_caption: bool
    size: int = -1
    last_modified: str = ""
    run_id: str = ""
    indexed_at: str = ""

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Return the state in a payload."""
        return cls(
            etag=str(payload.get("etag") or ""),
            caption_hash=str(payload.get("caption_hash") or ""),
            sources=tuple(payload.get("sources") or ()),
            has_image=bool(payload.get("has_image")),
            has_caption=bool(payload.get("has_caption")),
            size=-1 if payload.get("size") is None else int(payload["size"]),
            last_modified=str(payload.get("last_modified") or ""),
            run_id=str(payload.get("run_id") or ""),
            indexed_at=str(payload.get("indexed_at") or ""),
        )


@dataclass(frozen=True)
class StoredPoint:
    """A whole point: its payload with the words of its texts, and its unit vectors (float32 [D]) by kind."""

    payload: Mapping[str, Any]
    vectors: Mapping[VectorName, Vectors]

    @property
    def state(self) -> PointState:
        """The fields that decide if it is up to date."""
        return PointState.of({**self.payload, **{f"has_{name}": name in self.vectors for name in VECTOR_NAMES}})


@dataclass(frozen=True)
class Record:
    """A point without its vectors."""

    id: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class StoredHit:
    """A point found by a search; `score` is the cosine with the query, or in a search by words the BM25 score.

    `cosines` are those with the query's vector, by kind of vector; empty in a search by words.
    """

    id: str
    score: float
    payload: Mapping[str, Any]
    cosines: Mapping[VectorName, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredGroup:
    """Points that share one value of a payload field, best first."""

    value: str | int
    hits: Sequence[StoredHit]


@dataclass(frozen=True)
class PointBatch:
    """Points to write, in columns: N ids and payloads, and float32 [N, D] vectors of each kind.

    Without a mask (bool [N]) a column of vectors is complete; rows where the mask is False are ignored.
    Raises `ValueError` if the columns differ in length, a vector has no direction, or a point has no vector.
    """

    ids: Sequence[str]
    payloads: Sequence[Mapping[str, Any]]
    image: Vectors | None = None
    caption: Vectors | None = None
    has_image: Mask | None = None
    has_caption: Mask | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        if len(self.payloads) != count:
            raise ValueError(f"{count} ids, but {len(self.payloads)} payloads")
        for name in VECTOR_NAMES:
            vectors, rows = self.vectors(name), self.rows(name)
            if len(rows) != count or (vectors is not None and (vectors.ndim != 2 or len(vectors) != count)):
                shape = None if vectors is None else vectors.shape
                raise ValueError(f"{count} ids, but {name} vectors of shape {shape} and a mask of {len(rows)}")
            if vectors is None and rows.any():
                raise ValueError(f"the mask asks for {name} vectors, but none are given")
            if vectors is not None and len(bad := np.flatnonzero(rows & ~have_direction(vectors)).tolist()):
                raise ValueError(
                    f"{name} vectors that are not finite or are 0, of points {[self.ids[row] for row in bad[:3]]}"
                )
        bare = np.flatnonzero(~(self.rows("image") | self.rows("caption"))).tolist()
        if bare:
            raise ValueError(f"points without any vector: {[self.ids[row] for row in bare[:3]]}")

    def vectors(self, name: VectorName) -> Vectors | None:
        """Return the vectors of one kind."""
        return self.image if name == "image" else self.caption

    def rows(self, name: VectorName) -> Mask:
        """Return the mask of points that have a vector of one kind, bool [N]."""
        mask = self.has_image if name == "image" else self.has_caption
        return np.full(len(self.ids), self.vectors(name) is not None) if mask is None else mask

    def by_vector_kinds(self) -> Iterator[tuple[tuple[VectorName, ...], list[int]]]:
        """Yield rows grouped by the kinds of vectors they have, as a columnar request needs them."""
        image, caption = self.rows("image"), self.rows("caption")
        for has_image, has_caption in ((True, True), (True, False), (False, True)):
            rows = np.flatnonzero((image == has_image) & (caption == has_caption)).tolist()
            names = tuple(name for name, has in zip(VECTOR_NAMES, (has_image, has_caption), strict=True) if has)
            if rows:
                yield names, rows
