"""Faults of Qdrant: the index is the same as without them, or becomes so with the next run."""

import pytest

from tests.chaos.table import chance
from tests.chaos.trial import Trial, cases, strikes
from viewfinder.backoff import Backoff
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.testing.qdrant import DISK_FULL, Fault

UPSERT = r"^PUT .*/points$"
WRITE = r"^(PUT|POST) .*/points($|/batch|/payload|/delete)"
READ = r"^POST .*/points(/scroll|/count)?$"


def some(name: str, most: int, *kinds: Fault, spare: int = 3) -> list[Fault]:
    """Between half of `most` and `most` faults of these kinds in turn, after up to `spare` requests without a fault.

    `CHAOS_SEED` determines the numbers.
    """
    moment = chance(name)
    spared = [Fault(on=kinds[0].on)] * moment.randint(0, spare)
    return spared + [kinds[number % len(kinds)] for number in range(moment.randint(-(-most // 2), most))]


TRANSIENT = {
    name: some(name, most, *kinds, spare=spare)
    for name, most, spare, kinds in [
        ("429 with Retry-After", 2, 3, [Fault(status=429, retry_after="1", on=WRITE)]),
        ("503, writes", 4, 3, [Fault(status=503, on=WRITE)]),
        ("503, reads", 4, 3, [Fault(status=503, on=READ)]),
        ("502 and 504 of a gateway", 4, 3, [Fault(status=502, on=WRITE), Fault(status=504, on=WRITE)]),
        ("no answer within the time limit", 1, 3, [Fault(delay_s=3.0, on=WRITE)]),
        ("connection cut before the batch", 4, 3, [Fault(drop="before", on=WRITE)]),
        ("the answer to an applied batch lost", 4, 3, [Fault(drop="after", on=WRITE)]),
        # These are not retried, and a second run has only two upserts.
        ("accepted, applied later", 3, 1, [Fault(late=2, on=UPSERT)]),
        ("restarted, away for 3 s", 1, 3, [Fault(away_s=3.0, on=WRITE)]),
    ]
}


# Others like these run always.
LONG = frozenset({"503, reads", "502 and 504 of a gateway", "restarted, away for 3 s"})


@pytest.mark.chaos("Qdrant")
@pytest.mark.parametrize("faults", cases(TRANSIENT, LONG))
def test_a_transient_fault_changes_nothing(trial: Trial, faults: list[Fault]) -> None:
    trial.with_faults(store=faults)


@pytest.mark.full
@pytest.mark.chaos("Qdrant", "restarted, away for 30 s")
def test_an_outage_of_30_seconds_changes_nothing(trial: Trial) -> None:
    trial.with_faults(store=some("restarted, away for 30 s", 1, Fault(away_s=30.0, on=WRITE)))


@pytest.mark.chaos("Qdrant", "a storm: every kind, in any order")
@pytest.mark.parametrize("round", [0, *(pytest.param(number, marks=pytest.mark.full) for number in range(1, 10))])
def test_many_faults_at_once_change_nothing(trial: Trial, round: int) -> None:
    kinds = [each for faults in TRANSIENT.values() for each in faults if not each.away_s and each.delay_s == 0]
    trial.cost.fault = f"a storm of 8 faults, number {round}"
    trial.with_faults(store=chance(trial.cost.fault).sample([each for each in kinds if strikes([each])], k=8))


@pytest.mark.chaos("Qdrant", "its disk is full")
@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_ends_the_run_with_advice_and_the_next_run_continues(trial: Trial, after: int) -> None:
    before = [Fault(on=WRITE)] * after
    with pytest.raises(StoreError, match=r"disk is full.*run the job again") as caught:
        trial.sync(store=[*before, *[Fault(status=500, message=DISK_FULL, on=WRITE)] * 1000])
    assert not isinstance(caught.value, StoreUnavailableError), "waiting would not free space"
    trial.cost.fault = f"disk full after {after} writes, then given room"
    trial.record_cost()
    trial.sync()
    trial.assert_same_as_without_faults(0)


@pytest.mark.chaos("Qdrant", "away for longer than a job waits")
def test_a_long_outage_ends_the_run_and_the_next_run_continues(trial: Trial) -> None:
    trial.world.store.connection.retry = Backoff(1.0)
    spared = [Fault(on=UPSERT)] * chance("away for good").randint(1, 4)
    with pytest.raises(StoreUnavailableError, match="Gave up after"):
        trial.sync(store=[*spared, *[Fault(status=503, on=UPSERT)] * 1000])
    trial.record_cost()
    trial.sync()
    trial.assert_same_as_without_faults(0)
