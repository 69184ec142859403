"""The counts of a run."""

import pytest

from viewfinder.indexing.accounting import STAGE_ADVICE, Outcome, Stage, Tally, failure_ratio

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


def test_objects_are_counted_once_and_skips_by_reason() -> None:
    tally = Tally(indexed=1, unchanged=2, failed=3, archived=4, video=5) + Tally(
        empty=9, taken_down=6, not_an_image=7, hidden=8
    )
    assert tally.skips == {"archived": 4, "not_an_image": 7, "hidden": 8, "video": 5, "empty": 9, "taken_down": 6}
    assert tally.outcomes == {"unchanged": 2, "indexed": 1, "skipped": 39, "failed": 3}
    assert tally.objects == sum(tally.outcomes.values())


@pytest.mark.parametrize(
    ("counts", "ratio"),
    [
        ({"listed": 100, "skipped": 0, "failed": 1}, 0.01),
        ({"listed": 100, "skipped": 90, "failed": 1}, 0.1),
        ({"listed": 100, "skipped": 100, "failed": 0}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_failure_ratio_leaves_out_skipped_objects(counts: dict[str, int], ratio: float) -> None:
    assert failure_ratio(counts) == ratio


def test_new_captions_alone_can_have_a_bottleneck() -> None:
    assert Outcome(Tally(captions=1), [Stage("encode", 1, 1, 1)]).bottleneck == "encode"
