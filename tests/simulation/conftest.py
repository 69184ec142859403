"""The models of the simulation are removed after its tests: a worker of pytest-xdist may end without `atexit`."""

from collections.abc import Iterator

import pytest

from tests.simulation.models import release_models


@pytest.fixture(autouse=True, scope="package")
def models() -> Iterator[None]:
    yield
    release_models()
