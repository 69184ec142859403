"""Verification with few searches: their number matters for times only, which no test compares."""

import pytest

from viewfinder.evaluation import latency
from viewfinder.reindexing import verify


@pytest.fixture(autouse=True)
def few_timed_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "TIMED", 5)
    monkeypatch.setattr(latency, "_WARM_UP", 1)
