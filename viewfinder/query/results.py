"""A page of hits as it is returned: with the relevance of each hit and the cursor of the next page."""

import time
from collections.abc import Mapping, Sequence

from viewfinder.client.results import Group, Hit, SearchResult
from viewfinder.query.cursor import Cursor, CursorKeys
from viewfinder.query.query import Query
from viewfinder.query.ranking import HitPage
from viewfinder.query.vectors import Composed
from viewfinder.store import Collection, StoredHit
from viewfinder.store.baselines import share_below
from viewfinder.store.schema import VectorName


def search_result(
    query: Query, composed: Composed, page: HitPage, collection: Collection, keys: CursorKeys, began: float
) -> SearchResult:
    """The answer to a query that began at `began` (`time.perf_counter`)."""
    baselines = collection.metadata.baselines

    def hit(stored: StoredHit) -> Hit:
        payload = dict(stored.payload)
        return Hit(
            id=stored.id,
            score=stored.score,
            relevance=relevance(baselines, composed.kind, stored.cosines),
            uri=payload.get("uri", ""),
            caption=payload.get("caption"),
            width=payload.get("width"),
            height=payload.get("height"),
            payload=payload,
        )

    cursor = None
    if page.place is not None:
        cursor = Cursor(collection.name, query.digest(), page.place, composed.kind, composed.vector).encode(keys)
    return SearchResult(
        hits=tuple(map(hit, page.hits)),
        groups=None
        if page.groups is None
        else tuple(Group(value=group.value, hits=tuple(map(hit, group.hits))) for group in page.groups),
        model=collection.metadata.model_name,
        collection=collection.name,
        took_ms=round((time.perf_counter() - began) * 1000, 2),
        cursor=cursor,
        warnings=composed.warnings,
    )


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
