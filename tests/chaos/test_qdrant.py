"""Qdrant that refuses, delays, does not answer, goes away or is full: the index is the same, or a rerun makes it so."""

import pytest

from tests.chaos.table import chance
from tests.chaos.trial import Trial, strikes
from viewfinder.backoff import Backoff
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.testing.qdrant import DISK_FULL, Fault

UPSERT = r"^PUT .*/points$"
WRITE = r"^(PUT|POST) .*/points($|/batch|/payload|/delete)"
READ = r"^POST .*/points(/scroll|/count)?$"


def some(name: str, most: int, *kinds: Fault, spare: int = 3) -> list[Fault]:
    """Half of `most` to all of them, of these kinds in turn, after up to `spare` requests that go well.

    `CHAOS_SEED` says how many.
    """
    moment = chance(name)
    spared = [Fault(on=kinds[0].on)] * moment.randint(0, spare)
    return spared + [kinds[number % len(kinds)] for number in range(moment.randint(-(-most // 2), most))]


PASSING = {
    name: some(name, most, *kinds, spare=spare)
    for name, most, spare, kinds in [
        ("429 with Retry-After", 2, 3, [Fault(status=429, retry_after="1", on=WRITE)]),
        ("503, writes", 4, 3, [Fault(status=503, on=WRITE)]),
        ("503, reads", 4, 3, [Fault(status=503, on=READ)]),
        ("502 and 504 of a gateway", 4, 3, [Fault(status=502, on=WRITE), Fault(status=504, on=WRITE)]),
        ("no answer within the time limit", 1, 3, [Fault(delay_s=3.0, on=WRITE)]),
        ("connection cut before the batch", 4, 3, [Fault(drop="before", on=WRITE)]),
        ("the answer to an applied batch lost", 4, 3, [Fault(drop="after", on=WRITE)]),
        # Nothing of these is asked again, and a second run has two upserts.
        ("accepted, applied later", 3, 1, [Fault(late=2, on=UPSERT)]),
        ("restarted, away for 3 s", 1, 3, [Fault(away_s=3.0, on=WRITE)]),
    ]
}


@pytest.mark.chaos("Qdrant")
@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
def test_what_passes_changes_nothing(trial: Trial, faults: list[Fault]) -> None:
    trial.with_faults(store=faults)


@pytest.mark.full
@pytest.mark.chaos("Qdrant", "restarted, away for 30 s")
def test_half_a_minute_away_changes_nothing(trial: Trial) -> None:
    trial.with_faults(store=some("restarted, away for 30 s", 1, Fault(away_s=30.0, on=WRITE)))


@pytest.mark.chaos("Qdrant", "a storm: every kind, in any order")
@pytest.mark.parametrize("round", [0, *(pytest.param(number, marks=pytest.mark.full) for number in range(1, 10))])
def test_a_storm_changes_nothing(trial: Trial, round: int) -> None:
    kinds = [each for faults in PASSING.values() for each in faults if not each.away_s and each.delay_s == 0]
    trial.cost.fault = f"a storm of 8 faults, number {round}"
    trial.with_faults(store=chance(trial.cost.fault).sample([each for each in kinds if strikes([each])], k=8))


@pytest.mark.chaos("Qdrant", "its disk is full")
@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_ends_the_run_with_what_to_do_and_the_next_one_goes_on(trial: Trial, after: int) -> None:
    before = [Fault(on=WRITE)] * after
    with pytest.raises(StoreError, match=r"disk is full.*run the job again") as caught:
        trial.sync(store=[*before, *[Fault(status=500, message=DISK_FULL, on=WRITE)] * 1000])
    assert not isinstance(caught.value, StoreUnavailableError), "waiting makes no room"
    trial.cost.fault = f"disk full after {after} writes, then given room"
    trial.tell()
    trial.sync()
    trial.same_as_calm(0)


@pytest.mark.chaos("Qdrant", "away for longer than a job waits")
def test_a_store_that_stays_away_ends_the_run_and_the_next_one_goes_on(trial: Trial) -> None:
    trial.world.store.connection.retry = Backoff(1.0)
    spared = [Fault(on=UPSERT)] * chance("away for good").randint(1, 4)
    with pytest.raises(StoreUnavailableError, match="Gave up after"):
        trial.sync(store=[*spared, *[Fault(status=503, on=UPSERT)] * 1000])
    trial.tell()
    trial.sync()
    trial.same_as_calm(0)
