"""The cosines that a model gives to things that have nothing to do with each other: what a score is measured by.

A raw cosine means nothing to a person: 0.25 is a fine match to one model and noise to another. So the scores of
unrelated pairs are kept with each collection, as quantiles by kind of pair, and a score has its place among them.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from viewfinder.store import Store
from viewfinder.store.baseline_texts import CHINESE, ENGLISH
from viewfinder.store.records import Vectors
from viewfinder.store.schema import Collection

logger = logging.getLogger(__name__)

QUANTILES = 101
# 500 by 500 vectors make 250,000 pairs, in tens of milliseconds; more do not move the quantiles.
SAMPLE = 500
# Fewer say more about themselves than about the model.
FEWEST = 20
# From here on the captions of other points are the better unrelated texts: they speak of what this index is about.
ENOUGH_CAPTIONS = 100
# A collection that has changed by less keeps its estimate.
NOTICEABLE = 0.1


def queries(languages: str) -> list[str]:
    """Texts to compare with, in languages that the model knows; `languages` is the registry's word for them."""
    many = languages.startswith(("about", "more than"))
    return [*ENGLISH, *(CHINESE if many or "Chinese" in languages else ())]


def share(quantiles: Sequence[float], cosine: float) -> float:
    """The share (0 to 1) of unrelated pairs that are less alike, by the quantiles of one kind of pair."""
    return round(float(np.interp(cosine, quantiles, np.linspace(0, 1, len(quantiles)))), 4)


def renew(store: Store, collection: Collection, changed: int, encode: Callable[[], Vectors]) -> bool:
    """Estimate anew after a run that changed so many points, where that matters; whether it was done.

    Never fails: searches do without. `encode` as in `estimate`.
    """
    try:
        points = store.points.count(collection)
        if not is_due(collection, points, changed):
            return False
        baselines = estimate(store, collection, encode)
        if baselines:
            store.collections.update_metadata(collection.name, baselines=baselines, baselined_points=points)
    except Exception as error:
        # All pictures are indexed by now: nothing that goes wrong here is worth a failed run.
        logger.warning("Hits will not say how relevant they are, until the next run: %s", error)
        return False
    return bool(baselines)


def is_due(collection: Collection, points: int, changed: int) -> bool:
    """Whether the collection, with so many points by now and so many of them changed, needs another estimate."""
    metadata = collection.metadata
    before = metadata.baselined_points
    if not metadata.baselines or not before:
        return True
    return max(abs(points - before), changed) > NOTICEABLE * before


def estimate(store: Store, collection: Collection, encode: Callable[[], Vectors]) -> dict[str, list[float]]:
    """Quantiles of the cosines of unrelated pairs by kind of pair, of those kinds that there are enough vectors for.

    Pairs are chance ones among random points; a few are related after all, which only the highest quantiles feel.
    `encode` gives the unit vectors (float32 [N, D]) of `queries`, and is called only where captions do not serve.
    """
    images = store.points.sample(collection, SAMPLE, "image")
    captions = store.points.sample(collection, SAMPLE, "caption")
    if max(len(images), len(captions)) < FEWEST:
        return {}
    texts = captions if len(captions) >= ENOUGH_CAPTIONS else encode()
    pairs = {
        "text_image": (texts, images),
        "text_caption": (texts, captions),
        "image_image": (images, images),
        "image_caption": (images, captions),
    }
    return {kind: _quantiles(*both) for kind, both in pairs.items() if min(map(len, both)) >= FEWEST}


def _quantiles(one: Vectors, other: Vectors) -> list[float]:
    cosines = one @ other.T
    if one is other:  # not a vector with itself, and no pair twice
        cosines = cosines[np.triu_indices(len(one), k=1)]
    quantiles: list[float] = np.quantile(cosines, np.linspace(0, 1, QUANTILES)).round(5).tolist()
    return quantiles
