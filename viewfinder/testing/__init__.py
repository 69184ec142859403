"""Doubles and small models for tests and benchmarks, importable on workers."""
