"""The query service: a Ray Serve deployment whose replicas encode, batch and search."""
