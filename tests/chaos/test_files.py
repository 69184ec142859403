"""Damaged files: each is decoded or fails with a reason, whatever it does to the libraries that read it."""

import time
from collections import Counter

import pytest

from tests.chaos.corpus import BEGINNINGS, corpus, whole
from tests.chaos.table import SEED, Cost
from tests.images.samples import encoded, quadrants
from tests.processes import children
from viewfinder.errors import ImageError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import REASONS, ImageLimits, Preprocess

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(32)
LIMITS = ImageLimits(10**7, 10**7)
TIMEOUT_S = 10.0
MEMORY = 512 * 1024**2
# Tolerance beyond the time limit on a busy machine.
PATIENCE_S = 60.0


@pytest.mark.chaos("Files", "a fuzzed corpus")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.full)])
def test_a_damaged_file_is_decoded_or_fails_with_a_reason(cost: Cost, count: int) -> None:
    began, before = time.perf_counter(), children()
    outcomes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    with Decoder(PREPROCESS, LIMITS, timeout_s=TIMEOUT_S, memory_bytes=MEMORY) as decoder:
        for name, data in corpus(count, SEED):
            started = time.monotonic()
            result = outcome(decoder, data)
            assert result != "decoder_crashed", f"a damaged {name} file crashed its decoder"
            outcomes[result] += 1
            formats[name] += 1
            assert time.monotonic() - started < TIMEOUT_S + PATIENCE_S, name
        assert decoder.decode(encoded(quadrants())).width == 80, "the decoder still works"
        assert len(children() - before) == 1
    assert children() == before, "the decoder's process has ended"
    assert outcomes.keys() <= REASONS.keys() | {"decoded"}
    assert {"decoded", "corrupt", "truncated", "not_an_image"} <= outcomes.keys()
    assert len(formats) > 40
    assert set(BEGINNINGS) <= set(formats)
    cost.fault = f"{formats.total():,} damaged files, {len(formats)} formats: " + ", ".join(
        f"{number:,} {reason}" for reason, number in outcomes.most_common()
    )
    cost.injected, cost.seconds = formats.total(), time.perf_counter() - began


def test_an_undamaged_file_is_decoded_with_its_format() -> None:
    with Decoder(PREPROCESS, LIMITS, timeout_s=TIMEOUT_S, memory_bytes=MEMORY) as decoder:
        for name, data in whole().items():
            if name == "EPS":  # needs Ghostscript
                assert outcome(decoder, data) == "unsupported"
            else:
                assert decoder.decode(data).format == name.partition(",")[0].lower()


def outcome(decoder: Decoder, data: bytes) -> str:
    try:
        image = decoder.decode(data)
    except ImageError as error:
        return error.reason
    assert image.pixels.shape == (32, 32, 3)
    assert image.width > 0 < image.height
    return "decoded"


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    assert list(corpus(2, 1)) == list(corpus(2, 1))
    assert list(corpus(2, 1)) != list(corpus(2, 2))
