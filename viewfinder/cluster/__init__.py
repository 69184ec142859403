"""Indexing on Ray Data: session, executor, resources, progress, metrics."""
