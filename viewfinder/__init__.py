"""viewfinder: describe what you are looking for, get the images. Importing this loads neither torch nor ray."""

import importlib
from typing import TYPE_CHECKING

from viewfinder._version import __version__

if TYPE_CHECKING:
    from viewfinder.client import AsyncClient, Client, NewImage, Part
    from viewfinder.engine.engine import ImageSearchEngine, print_results

__all__ = ["AsyncClient", "Client", "ImageSearchEngine", "NewImage", "Part", "__version__", "print_results"]

# Loaded at first use: jobs and decoder processes import this package too, and need no HTTP client.
_HOMES = {
    "AsyncClient": "viewfinder.client",
    "Client": "viewfinder.client",
    "ImageSearchEngine": "viewfinder.engine",
    "NewImage": "viewfinder.client",
    "Part": "viewfinder.client",
    "print_results": "viewfinder.engine",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
