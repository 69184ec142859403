"""Callbacks that report the progress of a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

# Called with the number of objects listed so far.
ListingProgress = Callable[[int], None]
# Called repeatedly with the number of objects done so far, by outcome.
IndexingProgress = Callable[[Mapping[str, int]], None]


class Progress(Protocol):
    """Displays the long steps of a run; each step is a context."""

    def listing(self) -> AbstractContextManager[ListingProgress]:
        """The listing of the sources."""

    def indexing(self, total: int) -> AbstractContextManager[IndexingProgress]:
        """The stages over `total` objects."""


class NoProgress:
    """Displays nothing."""

    @contextmanager
    def listing(self) -> Iterator[ListingProgress]:
        yield lambda count: None

    @contextmanager
    def indexing(self, total: int) -> Iterator[IndexingProgress]:
        yield lambda counts: None
