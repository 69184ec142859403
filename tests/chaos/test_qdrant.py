"""Qdrant that refuses, delays, does not answer, goes away or is full: the index is the same, or a rerun makes it so."""

import random

import pytest

from tests.chaos.table import SEED
from tests.chaos.trial import Trial
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.retries import Retry
from viewfinder.testing.qdrant import DISK_FULL, Fault

UPSERT = r"^PUT .*/points$"
WRITE = r"^(PUT|POST) .*/points($|/batch|/payload|/delete)"
READ = r"^POST .*/points(/scroll|/count)?$"

PASSING = {
    "429 with Retry-After": [Fault(status=429, retry_after="1", on=WRITE)] * 2,
    "503, writes": [Fault(status=503, on=WRITE)] * 4,
    "503, reads": [Fault(status=503, on=READ)] * 4,
    "502 and 504 of a gateway": [Fault(status=502, on=WRITE), Fault(status=504, on=WRITE)] * 2,
    "no answer within the time limit": [Fault(delay_s=3.0, on=WRITE)],
    "connection cut before the batch": [Fault(drop="before", on=WRITE)] * 3,
    "the answer to an applied batch lost": [Fault(drop="after", on=WRITE)] * 3,
    "accepted, applied later": [Fault(late=2, on=UPSERT)] * 3,
    "restarted, away for 3 s": [Fault(away_s=3.0, on=WRITE)],
}


@pytest.mark.chaos("Qdrant")
@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
def test_what_passes_changes_nothing(trial: Trial, faults: list[Fault]) -> None:
    trial.with_faults(store=faults)


@pytest.mark.long
@pytest.mark.chaos("Qdrant", "restarted, away for 30 s")
def test_half_a_minute_away_changes_nothing(trial: Trial) -> None:
    trial.with_faults(store=[Fault(away_s=30.0, on=WRITE)])


@pytest.mark.chaos("Qdrant", "a storm: every kind, in any order")
@pytest.mark.parametrize("round", [0, *(pytest.param(number, marks=pytest.mark.long) for number in range(1, 10))])
def test_a_storm_changes_nothing(trial: Trial, round: int) -> None:
    kinds = [fault for faults in PASSING.values() for fault in faults if not fault.away_s and fault.delay_s == 0]
    chance = random.Random(100 * SEED + round)
    trial.cost.fault = f"a storm of 8 faults, number {round}"
    trial.with_faults(store=chance.choices(kinds, k=8))


@pytest.mark.chaos("Qdrant", "its disk is full")
@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_ends_the_run_with_what_to_do_and_the_next_one_goes_on(trial: Trial, after: int) -> None:
    before = [Fault(on=WRITE)] * after
    with pytest.raises(StoreError, match=r"disk is full.*run the job again") as caught:
        trial.sync(store=[*before, *[Fault(status=500, said=DISK_FULL, on=WRITE)] * 1000])
    assert not isinstance(caught.value, StoreUnavailableError), "waiting makes no room"
    trial.cost.fault = f"disk full after {after} writes, then given room"
    trial.injected -= after
    trial.tell()
    trial.sync()
    trial.same_as_calm(0)


@pytest.mark.chaos("Qdrant", "away for longer than a job waits")
def test_a_store_that_stays_away_ends_the_run_and_the_next_one_goes_on(trial: Trial) -> None:
    trial.world.store._retry = Retry(1.0)
    with pytest.raises(StoreUnavailableError, match="Gave up after"):
        trial.sync(store=[Fault(on=UPSERT), *[Fault(status=503, on=UPSERT)] * 1000])
    trial.injected -= 1
    trial.tell()
    trial.sync()
    trial.same_as_calm(0)
