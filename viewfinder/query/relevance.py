"""Relevance: the rank of a cosine among the cosines of unrelated pairs.

CLIP's cosine for a text and a matching image is near 0.3, for two similar texts near 0.8, and differs between models.
So each collection stores the quantiles of the cosines of unrelated pairs, by kind of pair.
"""

from collections.abc import Mapping, Sequence

from viewfinder.query.query import Query
from viewfinder.store.baselines import share_below
from viewfinder.store.schema import VectorName


def query_kind(query: Query, ids: Mapping[str, VectorName]) -> str | None:
    """The kind of thing that the query's vector encodes: `text`, `image`, or None for mixtures and raw numbers.

    `ids` maps the id of a point to the vector that was taken of it: the caption of a point without an image is a text.
    """
    if any(part.weight <= 0 for part in query.parts):
        return None
    kinds: set[str | None] = set()
    for part in query.parts:
        if part.kind == "id":
            kinds.add("text" if ids.get(str(part.value)) == "caption" else "image")
        else:
            kinds.add({"text": "text", "image": "image", "image_url": "image"}.get(part.kind))
    return kinds.pop() if len(kinds) == 1 else None


def relevance(
    baselines: Mapping[str, Sequence[float]], kind: str | None, cosines: Mapping[VectorName, float]
) -> float | None:
    """The share (0 to 1) of unrelated pairs with a lower cosine; the higher share of two cosines.

    None if the query mixes kinds, or if the collection stores no baseline for its kind.
    """
    shares = [
        share_below(baseline, cosine)
        for name, cosine in cosines.items()
        if kind is not None and (baseline := baselines.get(f"{kind}_{name}"))
    ]
    return max(shares, default=None)
