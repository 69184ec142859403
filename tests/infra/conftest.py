"""Fixtures of the index job, for tests that run it on another cluster than the session's."""

from tests.fixtures.indexing import executor, qdrant, world

__all__ = ["executor", "qdrant", "world"]
