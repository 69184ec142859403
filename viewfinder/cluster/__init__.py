"""Indexing on Ray Data: session, pipeline, resources, executor, metrics."""
