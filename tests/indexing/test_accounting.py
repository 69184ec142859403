"""The counts of a run."""

from viewfinder.indexing.accounting import ADVICE, Outcome, Stage, Tally


def test_the_bottleneck_is_the_stage_with_the_busiest_workers() -> None:
    stages = [
        Stage("fetch", objects=100, seconds=80, workers=16),
        Stage("decode", objects=100, seconds=20, workers=1),
        Stage("encode", objects=100, seconds=30, workers=2),
        Stage("write", objects=0, seconds=0, workers=4),
    ]
    outcome = Outcome(Tally(), stages)
    assert outcome.bottleneck == "decode"
    assert "CPU cores" in ADVICE[outcome.bottleneck]


def test_a_stage_with_more_objects_may_be_the_bottleneck_at_a_higher_rate() -> None:
    stages = [
        Stage("compare", objects=1_000_000, seconds=100, workers=1),
        Stage("encode", objects=10_000, seconds=20, workers=1),
    ]
    assert Outcome(Tally(), stages).bottleneck == "compare"


def test_a_stage_whose_objects_all_failed_may_be_the_bottleneck() -> None:
    stages = [Stage("compare", 50, 1, 1), Stage("fetch", 0, 300, 16), Stage("encode", 0, 0, 1)]
    assert Outcome(Tally(), stages).bottleneck == "fetch"


def test_without_work_there_is_no_bottleneck() -> None:
    assert Outcome(Tally(), [Stage("encode", 0, 0, 1)]).bottleneck is None
