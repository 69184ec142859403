"""Histories of months in the life of an index break no invariant."""

import pytest

from tests.simulation.actions import FEATURES, Draw
from tests.simulation.history import KNOWN, Finding, act_out, run_seed, shrink
from tests.simulation.runner import find_in_processes

pytestmark = pytest.mark.slow


def told(findings: list[Finding]) -> str:
    return "\n\n".join(str(shrink(each)) for each in findings[:3])


def test_histories_break_no_invariant() -> None:
    # A history takes 0.2 s of CPU.
    findings = find_in_processes(1, 500)
    assert not findings, told(findings)


@pytest.mark.full
@pytest.mark.timeout(4 * 3600)
def test_many_histories_break_no_invariant() -> None:
    findings = find_in_processes(1, 20_000)
    assert not findings, told(findings)


def test_a_seed_gives_the_same_history_each_time() -> None:
    assert Draw(7, FEATURES).history() == Draw(7, FEATURES).history()
    assert run_seed(7) == run_seed(7)


def test_known_faults_are_features_that_exist() -> None:
    assert KNOWN.keys() <= FEATURES


def test_an_invariant_that_breaks_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that forgets deletions: nothing can be taken down."""
    monkeypatch.setattr("viewfinder.store.points.Points.delete", lambda self, collection, ids: None)
    finding = next(found for seed in range(50) if (found := run_seed(seed)) is not None)
    smallest = shrink(finding)
    assert sum(len(phase.actions) for phase in smallest.phases) < sum(len(phase.actions) for phase in finding.phases)
    assert act_out(finding.seed, smallest.phases) == smallest.violation
    assert f"python -m tests.simulation {finding.seed}" in str(smallest)
