"""What viewfinder is worth beside what people would use instead: `make bench`, or `python -m benchmarks NAME ...`."""
