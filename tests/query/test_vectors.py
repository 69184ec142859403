"""The parts of queries are encoded together."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.query.images import Pixels
from viewfinder.query.query import Query, QueryPart
from viewfinder.query.vectors import DirectEncoder, NamedPoints, compose


class Counting:
    """Query images from URLs, all the same, and the URLs that were fetched."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    async def pixels_at(self, url: str, preprocess: Any) -> Pixels:
        self.fetched.append(url)
        file = io.BytesIO()
        Image.new("RGB", (preprocess.size, preprocess.size), "red").save(file, "PNG")
        return np.asarray(Image.open(file))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.5)])
async def test_an_address_that_is_given_twice_is_fetched_once(tiny_model: str, weights: tuple[float, float]) -> None:
    """Regression: with another weight, or in another search of a batch, it was fetched again."""
    images = Counting()
    url = "https://example.org/cat.jpg"
    both = Query(tuple(QueryPart("image_url", url, weight) for weight in weights))
    alone = Query((QueryPart("image_url", url),))
    encoder = DirectEncoder(lambda: Encoder.load(locate(tiny_model), device="cpu"))
    composed = await compose([both, alone], encoder, images, NamedPoints({}, {}))  # type: ignore[arg-type]
    assert images.fetched == [url]
    vectors = [each.vector for each in composed]  # type: ignore[union-attr]
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
