"""A page of hits as it is returned: with the relevance of each hit and the cursor of the next page."""

import time

from viewfinder.client.requests import MAX_COLLAPSED, MAX_ORDERED, MAX_RANKED_HITS, MAX_SIMILAR
from viewfinder.client.results import Group, Hit, SearchResult, SimilarImage
from viewfinder.query.collapsing import Cluster
from viewfinder.query.cursor import Cursor, CursorKeys
from viewfinder.query.query import Query
from viewfinder.query.relevance import relevance
from viewfinder.query.steps import HitPage
from viewfinder.query.vectors import Composed
from viewfinder.store import Collection, StoredHit

_TRUNCATED = (
    f"More than {MAX_ORDERED:,} images are above the minimum, and only the best {MAX_ORDERED:,} are ordered. Raise the "
    "minimum, or narrow the filter."
)
_UNCOMPARED = (
    f"The pages end here, because only the first {MAX_COLLAPSED:,} hits were compared (of fused orders the best "
    f"{MAX_RANKED_HITS} of each list), and there are more. Narrow the filter, or search without collapse."
)
_WITHOUT_WORDS = "No caption among the searched images has a word of the text: the order is that of the model alone."


def search_result(
    query: Query, composed: Composed, page: HitPage, collection: Collection, keys: CursorKeys, began: float
) -> SearchResult:
    """The answer to a query that began at `began` (`time.perf_counter`)."""
    baselines = collection.metadata.baselines

    def hit(stored: StoredHit) -> Hit:
        payload = dict(stored.payload)
        cluster = page.clusters.get(stored.id)
        return Hit(
            id=stored.id,
            score=stored.score if query.parts else None,
            relevance=relevance(baselines, composed.kind, stored.cosines),
            uri=payload.get("uri", ""),
            caption=payload.get("caption"),
            width=payload.get("width"),
            height=payload.get("height"),
            payload=payload,
            collapsed=0 if cluster is None else len(cluster.others),
            similar=() if cluster is None else _similar(cluster),
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
        truncated=page.truncated or page.uncompared,
        warnings=(*composed.warnings, *_warnings(page)),
    )


def _similar(cluster: Cluster) -> tuple[SimilarImage, ...]:
    return tuple(
        SimilarImage(
            id=each.id,
            uri=each.uri,
            # Products of float32 unit vectors may exceed 1.
            cosine=None if cosine is None else min(1.0, round(cosine, 6)),
        )
        for each, cosine in zip(cluster.others[:MAX_SIMILAR], cluster.cosines, strict=False)
    )


def _warnings(page: HitPage) -> list[str]:
    given = {_TRUNCATED: page.truncated, _UNCOMPARED: page.uncompared, _WITHOUT_WORDS: page.without_words}
    return [warning for warning, is_given in given.items() if is_given]
