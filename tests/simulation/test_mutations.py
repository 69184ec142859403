"""The simulation finds faults of the past that are put back."""

import pytest

from tests.simulation.history import KNOWN, run_seed
from tests.simulation.mutations import MUTATIONS, Mutation

BUDGET = 60


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_that_is_put_back_is_found(mutation: Mutation) -> None:
    if mutation.features & KNOWN.keys():
        pytest.skip(f"viewfinder still has this fault: {mutation.breaks}")
    with mutation.applied():
        found = next((seed for seed in range(BUDGET) if run_seed(seed, mutation.features) is not None), None)
    assert found is not None, f"no history of {BUDGET} finds it: {mutation.breaks}"
    assert run_seed(found, mutation.features) is None, "the same history passes without the fault"
