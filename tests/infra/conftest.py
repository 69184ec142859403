"""The index job's world, for tests that run it on other clusters than the session's."""

from tests.fixtures.indexing import executor, qdrant, world

__all__ = ["executor", "qdrant", "world"]
