"""Hits that show the same or nearly the same image, collapsed into the first of them.

    exact   images with the same hash (`viewfinder.images.image_hash`); one without a hash stays alone
    near    images whose vectors have at least a threshold as cosine with that of a hit before; one without a vector of
            its image stays alone

Hits are taken in their order. Each joins the most similar one of those that stand for others so far, or stands for
itself. So no two hits that are shown are as similar as the threshold, and each one left out is that similar to the hit
that it is listed with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from viewfinder.arrays import Vectors
from viewfinder.client.requests import Collapse
from viewfinder.query.cursor import mark
from viewfinder.store.schema import IMAGE_HASH

# The fields of payloads that are read of all compared hits.
COLLAPSE_FIELDS = ("uri", IMAGE_HASH)


@dataclass(frozen=True)
class Collapsible:
    """A hit that may be collapsed; `image` is the hash of its image, or its id where none is compared."""

    id: str
    uri: str
    image: str

    @classmethod
    def of(cls, id_: str, payload: Mapping[str, Any], collapse: Collapse) -> Self:
        """Return a hit with `COLLAPSE_FIELDS` in its payload."""
        image = payload.get(IMAGE_HASH) if collapse == "exact" else None
        return cls(id_, str(payload.get("uri", "")), str(image or id_))


@dataclass
class Cluster:
    """A hit, and those collapsed into it, in their order; `cosines` are those of their images with its image."""

    first: Collapsible
    others: list[Collapsible] = field(default_factory=list)
    cosines: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Near:
    """Points to compare by the vectors of their images, in their order."""

    ids: Sequence[str]
    threshold: float


def exact(candidates: Sequence[Collapsible]) -> list[Cluster]:
    """Collapse candidates with the same hash."""
    clusters: dict[str, Cluster] = {}
    for each in candidates:
        if (cluster := clusters.setdefault(each.image, Cluster(each))).first is not each:
            cluster.others.append(each)
            cluster.cosines.append(None)
    return list(clusters.values())


def near(candidates: Sequence[Collapsible], joins: Sequence[tuple[int, float]]) -> list[Cluster]:
    """Collapse candidates by what `nearest_before` says of each."""
    clusters: dict[int, Cluster] = {}
    for place, (each, (joined, cosine)) in enumerate(zip(candidates, joins, strict=True)):
        if joined == place:
            clusters[place] = Cluster(each)
        else:
            clusters[joined].others.append(each)
            clusters[joined].cosines.append(cosine)
    return list(clusters.values())


def nearest_before(step: Near, vectors: Mapping[str, Vectors]) -> list[tuple[int, float]]:
    """For each point the place of the one that stands for it, its own if none does, and their cosine.

    `vectors` are unit vectors (float32 [D]) by id.
    """
    places = [place for place, each in enumerate(step.ids) if each in vectors]
    joins = [(place, 1.0) for place in range(len(step.ids))]
    if not places:
        return joins
    matrix = np.stack([vectors[step.ids[place]] for place in places])
    standing = np.empty_like(matrix)
    numbers: list[int] = []  # the places of the rows of `standing`
    for row, place in enumerate(places):
        cosines = standing[: len(numbers)] @ matrix[row]
        best = int(cosines.argmax()) if numbers else -1
        if best >= 0 and cosines[best] >= step.threshold:
            joins[place] = (numbers[best], float(cosines[best]))
        else:
            standing[len(numbers)] = matrix[row]
            numbers.append(place)
    return joins


def shown_first(candidates: Sequence[Collapsible], marks: frozenset[bytes]) -> list[Collapsible]:
    """The candidates with those that earlier pages have shown before the others.

    An image that was added since may come before the one that has been shown: it joins that one, too.
    """
    if not marks:
        return list(candidates)
    is_shown = [mark(each.image) in marks for each in candidates]
    shown = [each for each, known in zip(candidates, is_shown, strict=True) if known]
    return shown + [each for each, known in zip(candidates, is_shown, strict=True) if not known]
