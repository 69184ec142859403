"""A simulation of months in the life of an index; `python -m tests.simulation SEED` replays one history."""
