"""The simulation finds faults of the past that are put back."""

import re

import pytest

from tests.simulation.history import Finding
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.runner import BUDGET, find_mutations

pytestmark = pytest.mark.slow

_OWN_FAULTS = re.compile(r"(Type|Attribute|Name|UnboundLocal|Key|Index|Import|ModuleNotFound)Error\(")

Findings = dict[str, tuple[Finding | None, Finding | None]]


@pytest.fixture(scope="module")
def findings() -> Findings:
    return find_mutations()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_that_is_put_back_is_found(findings: Findings, mutation: Mutation) -> None:
    found, without = findings[mutation.name]
    assert found is not None, f"no history of {BUDGET} finds it: {mutation.breaks}"
    assert not _OWN_FAULTS.search(found.violation), "the mutation itself has failed"
    print(f"Seed {found.seed} finds it: {found.violation}")
    assert without is None, "the same history passes without the fault"
