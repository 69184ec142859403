"""Benchmarks of viewfinder against the usual alternatives: `make bench`, or `python -m benchmarks NAME ...`."""
