"""The indexes that a replica serves, and those of them that an API key may see."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from viewfinder.query.searcher import Searcher
from viewfinder.service.generation.follower import Follower
from viewfinder.service.telemetry.access_log import record_index
from viewfinder.store.shown import show


class UnknownIndexError(Exception):
    """The service has no such index, or the API key may not see it."""


@dataclass(frozen=True)
class ServedIndex:
    """One index: its follower, and the searcher over its live collection."""

    follower: Follower
    searcher: Searcher

    @property
    def name(self) -> str:
        return self.follower.index


class Indexes:
    """Indexes by name. Requests that name none ask the first one."""

    def __init__(self, served: Iterable[ServedIndex]) -> None:
        self._served = {each.name: each for each in served}

    def __iter__(self) -> Iterator[ServedIndex]:
        return iter(self._served.values())

    def __len__(self) -> int:
        return len(self._served)

    @property
    def default(self) -> ServedIndex:
        return self.of(None)

    def visible(self, names: Collection[str] | None) -> "Indexes":
        """Those with these names; all for None."""
        return self if names is None else Indexes(each for each in self if each.name in names)

    def of(self, name: str | None) -> ServedIndex:
        """The index `name`, the first one for None, recorded in the access log; raises `UnknownIndexError`."""
        found = next(iter(self), None) if name is None else self._served.get(name)
        if found is None:
            known = f"known are {', '.join(map(repr, self._served))}" if self._served else "this key may see none"
            raise UnknownIndexError(f"index: there is no index {show(name)}; {known}." if name else f"index: {known}.")
        record_index(found.name)
        return found
