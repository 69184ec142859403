"""What a cosine means: where it lies among the cosines of pairs that have nothing to do with each other.

The cosines of CLIP for a text and a picture that fit lie near 0.3, those of two texts near 0.8, and every model has its
own. So each collection keeps, from the time of its making, the quantiles of unrelated pairs of each kind.
"""

from collections.abc import Mapping, Sequence

from viewfinder.query.query import Query
from viewfinder.store.baselines import share_below
from viewfinder.store.schema import VectorName


def query_kind(query: Query, ids: Mapping[str, VectorName]) -> str | None:
    """What the query's vector is one of, `text` or `image`; None for a mixture, a difference or a raw vector.

    `ids` says which vector of a point stands for it: a point without a picture is a text.
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
    """The share (0 to 1) of unrelated pairs that are less alike; the better one where there are two cosines.

    None where the query is of no one kind, or the collection keeps no baseline for it.
    """
    shares = [
        share_below(baseline, cosine)
        for name, cosine in cosines.items()
        if kind is not None and (baseline := baselines.get(f"{kind}_{name}"))
    ]
    return max(shares, default=None)
