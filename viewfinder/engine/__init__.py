"""Index and search images in a few lines of Python: through a running service, or in this process."""

from viewfinder.engine.engine import ImageSearchEngine, print_results

__all__ = ["ImageSearchEngine", "print_results"]
