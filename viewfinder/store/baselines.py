"""Relevance baselines: quantiles of the cosines of unrelated pairs, kept with each collection.

A raw cosine has no absolute meaning: 0.25 is a good match with one model and noise with another. The relevance of a hit
is the share of unrelated pairs with a lower cosine.
"""

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import numpy as np

from viewfinder.arrays import Vectors
from viewfinder.store import Store
from viewfinder.store.schema import Collection

logger = logging.getLogger(__name__)

QUANTILES = 101
# 500 by 500 vectors give 250,000 pairs in tens of milliseconds; more do not change the quantiles.
SAMPLE_SIZE = 500
# Quantiles of fewer vectors depend on the sample more than on the model.
MINIMUM_VECTORS = 20
# From this number on, the captions of other points replace our texts: they fit the subjects of the index better.
MINIMUM_CAPTIONS = 100
# Estimate again after a larger relative change of the collection.
MAXIMUM_DRIFT = 0.1


def unrelated_texts(languages: str) -> list[str]:
    """Return short descriptions of common things, in the model's languages (`ModelSpec.languages`)."""
    texts = _texts_by_language()
    multilingual = languages.startswith(("about", "more than"))
    return [*texts["english"], *(texts["chinese"] if multilingual or "Chinese" in languages else ())]


def share_below(quantiles: Sequence[float], cosine: float) -> float:
    """Return the share (0 to 1) of unrelated pairs with a lower cosine, from the quantiles of one kind of pair."""
    return round(float(np.interp(cosine, quantiles, np.linspace(0, 1, len(quantiles)))), 4)


def update_baselines(store: Store, collection: Collection, changed: int, encode: Callable[[], Vectors]) -> bool:
    """Estimate the baselines again if a run with `changed` points made it necessary; return True if it was done.

    Logs errors instead of raising them: searches work without baselines. `encode` as in `estimate`.
    """
    try:
        points = store.points.count(collection, exact=False)  # which a few points more or less do not change
        if not is_due(collection, points, changed):
            return False
        baselines = estimate(store, collection, encode)
        if baselines:
            store.collections.update_metadata(collection.name, baselines=baselines, baselined_points=points)
    except Exception as error:
        # All images are indexed: an error here must not fail the run.
        logger.warning("Hits have no relevance until the next run: %s", error)
        return False
    return bool(baselines)


def is_due(collection: Collection, points: int, changed: int) -> bool:
    """Return True if a collection of `points` points, `changed` of them by the last run, needs a new estimate."""
    metadata = collection.metadata
    before = metadata.baselined_points
    if not metadata.baselines or not before:
        return True
    return max(abs(points - before), changed) > MAXIMUM_DRIFT * before


def estimate(store: Store, collection: Collection, encode: Callable[[], Vectors]) -> dict[str, list[float]]:
    """Return quantiles of the cosines of unrelated pairs, for the kinds of pair with enough vectors.

    Pairs are random; the few that are related change only the highest quantiles. `encode` returns the unit vectors
    (float32 [N, D]) of `unrelated_texts`, and is called only if there are too few captions.
    """
    images = store.points.sample(collection, SAMPLE_SIZE, "image")
    captions = store.points.sample(collection, SAMPLE_SIZE, "caption")
    if max(len(images), len(captions)) < MINIMUM_VECTORS:
        return {}
    texts = captions if len(captions) >= MINIMUM_CAPTIONS else encode()
    pairs = {
        "text_image": (texts, images),
        "text_caption": (texts, captions),
        "image_image": (images, images),
        "image_caption": (images, captions),
    }
    return {kind: _quantiles(*both) for kind, both in pairs.items() if min(map(len, both)) >= MINIMUM_VECTORS}


@functools.cache
def _texts_by_language() -> Mapping[str, list[str]]:
    texts: dict[str, list[str]] = json.loads(
        resources.files("viewfinder.store").joinpath("unrelated_texts.json").read_text(encoding="utf-8")
    )
    return texts


def _quantiles(one: Vectors, other: Vectors) -> list[float]:
    cosines = one @ other.T
    if one is other:  # neither a vector with itself nor a pair twice
        cosines = cosines[np.triu_indices(len(one), k=1)]
    quantiles: list[float] = np.quantile(cosines, np.linspace(0, 1, QUANTILES)).round(5).tolist()
    return quantiles
