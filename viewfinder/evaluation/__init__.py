"""Search quality and speed of collections: evaluation sets, recall, latency, plots."""
