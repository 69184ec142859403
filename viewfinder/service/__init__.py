"""The search service behind HTTP."""
