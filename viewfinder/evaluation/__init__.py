"""How well an index answers: evaluation sets, recall, latency, plots."""
