"""The counts of a run."""

import pytest

from viewfinder.indexing.accounting import STAGE_ADVICE, Outcome, Stage, Tally

ENCODED = Tally(indexed=1, images=1)


def test_the_bottleneck_is_the_stage_with_the_busiest_workers() -> None:
    stages = [
        Stage("fetch", objects=100, seconds=80, workers=16),
        Stage("decode", objects=100, seconds=20, workers=1),
        Stage("encode", objects=100, seconds=30, workers=2),
        Stage("write", objects=0, seconds=0, workers=4),
    ]
    outcome = Outcome(ENCODED, stages)
    assert outcome.bottleneck == "decode"
    assert "CPU cores" in STAGE_ADVICE[outcome.bottleneck]


def test_a_stage_with_more_objects_can_be_the_bottleneck_at_a_higher_rate() -> None:
    stages = [
        Stage("compare", objects=1_000_000, seconds=100, workers=1),
        Stage("encode", objects=10_000, seconds=20, workers=1),
    ]
    assert Outcome(ENCODED, stages).bottleneck == "compare"


def test_a_stage_with_many_failures_can_be_the_bottleneck() -> None:
    stages = [Stage("compare", 50, 1, 1), Stage("fetch", 1, 300, 16), Stage("encode", 1, 1, 1)]
    assert Outcome(ENCODED, stages).bottleneck == "fetch"


@pytest.mark.parametrize("tally", [Tally(unchanged=50), Tally(failed=50)])
def test_a_run_that_encodes_nothing_has_no_bottleneck(tally: Tally) -> None:
    assert Outcome(tally, [Stage("compare", 50, 1, 1), Stage("encode", 0, 0, 1)]).bottleneck is None


def test_new_captions_alone_can_have_a_bottleneck() -> None:
    assert Outcome(Tally(captions=1), [Stage("encode", 1, 1, 1)]).bottleneck == "encode"
