"""The manifests as Kustomize builds them; and the index job, for tests that run it on a cluster of their own."""

from typing import Any

import pytest

from tests.fixtures.indexing import executor, qdrant, world
from tests.infra.manifests import BUILDS, build

__all__ = ["executor", "qdrant", "world"]


@pytest.fixture(params=BUILDS, ids="+".join)
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return build(*request.param)


@pytest.fixture
def base() -> list[dict[str, Any]]:
    return build("base")
