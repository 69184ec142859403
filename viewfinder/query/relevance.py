"""The relevance of hits: the share of unrelated pairs with a lower cosine, and the minimum that a query may set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from viewfinder.query.errors import RelevanceError
from viewfinder.query.query import Query
from viewfinder.store import Collection
from viewfinder.store.baselines import share_below
from viewfinder.store.schema import VectorName

_STEP = 1e-4  # relevance is rounded to multiples of it


def relevance(
    baselines: Mapping[str, Sequence[float]], kind: str | None, cosines: Mapping[VectorName, float]
) -> float | None:
    """The share (0 to 1) of unrelated pairs with a lower cosine.

    CLIP's cosine for a text and a matching image is near 0.3, for two similar texts near 0.8, and differs between
    models. So each collection stores the quantiles of the cosines of unrelated pairs, by kind of pair.

    With two cosines it is the share of unrelated pairs whose higher share is lower: the higher of two independent
    shares is below x with the probability x². None if the query has no kind, or the collection no baseline for it.
    """
    shares = [
        share_below(baseline, cosine)
        for name, cosine in cosines.items()
        if kind is not None and (baseline := baselines.get(f"{kind}_{name}"))
    ]
    return round(max(shares) ** len(shares), 4) if shares else None


@dataclass(frozen=True)
class MinimumRelevance:
    """The `min_relevance` of a query of one kind, with the baselines of its collection."""

    minimum: float
    kind: str
    baselines: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, query: Query, kind: str | None, collection: Collection) -> "MinimumRelevance | None":
        """Return that of a query; None if it has none. Raises `RelevanceError` if its hits have no relevance."""
        if query.min_relevance is None:
            return None
        if not query.parts:
            raise RelevanceError("there is no query")
        if query.rank == "words":
            raise RelevanceError("rank 'words' does not compare vectors")
        if kind is None:
            raise RelevanceError("the query is a vector, has several different parts, or none with a weight above 0")
        baselines = collection.metadata.baselines
        if not any(baselines.get(f"{kind}_{name}") for name in query.targets):
            raise RelevanceError(
                "the index has not measured it for this kind of search yet, which the index job does from 20 images or "
                "captions on"
            )
        return cls(query.min_relevance, kind, baselines)

    def holds(self, cosines: Mapping[VectorName, float]) -> bool:
        """Return True for a hit that has at least the minimum."""
        found = relevance(self.baselines, self.kind, cosines)
        return found is not None and found >= self.minimum

    def cosine(self, name: VectorName, *, among: int) -> float | None:
        """Return the lowest cosine of hits that have the minimum; None if hits of this target have no relevance.

        With one target `among` it is exact. With more, a hit of a higher cosine may still have less.
        """
        baseline = self.baselines.get(f"{self.kind}_{name}")
        if not baseline:
            return None
        share = math.ceil(round(self.minimum / _STEP, 6)) * _STEP - (_STEP / 2 if among == 1 else _STEP)
        return float(np.interp(share, np.linspace(0, 1, len(baseline)), baseline)) if share > 0 else -1.0
