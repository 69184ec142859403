"""Points in the order of a payload field.

Qdrant's own order by a field leaves equal values in any order, repeats a point with several values, and leaves out
points without one. Here equal values come in the order of ids, a point with several values comes once, at the first of
them, and points without a value come last. So an order continues after any of its places.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

from qdrant_client import models

from viewfinder.store.conditions import ParsedFilter
from viewfinder.store.field_names import DATETIME, INTEGER, field_path, values_of
from viewfinder.store.filter_values import MAX_EXACT_FLOAT
from viewfinder.store.records import Record

OrderKey: TypeAlias = float | int | None
"""A number as Qdrant compares it (float64), microseconds since 1970 for a date, None for a point without a value."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_PAGE = 1000  # points read at once


class OrderPlace(NamedTuple):
    """The place of a point in an order."""

    key: OrderKey
    id: str


@dataclass(frozen=True)
class OrderedPage:
    """Points in their order; `last` is the place of the last one read if there are further points."""

    records: Sequence[Record]
    last: OrderPlace | None


@dataclass(frozen=True)
class Ordering:
    """An order by a field of numbers or dates, as `viewfinder.store.field_names` names it and its kind."""

    field: str
    kind: str
    descending: bool = False

    def key(self, payload: Mapping[str, Any]) -> OrderKey:
        """Return the value of a payload that comes first in this order."""
        parse = _microseconds if self.kind == DATETIME else _number
        keys = [key for key in map(parse, values_of(payload, self.field)) if key is not None]
        return (max if self.descending else min)(keys, default=None)

    def rank(self, place: OrderPlace) -> tuple[bool, float | int, str]:
        """Return the sort key of a place."""
        key = place.key or 0
        return place.key is None, -key if self.descending else key, place.id


def read_in_order(
    scroll: Callable[..., Any],
    ordering: Ordering,
    condition: ParsedFilter | None,
    after: OrderPlace | None,
    wanted: int,
) -> Iterator[OrderPlace]:
    """Yield the places of the points that match, those after a place if one is given.

    `scroll` is Qdrant's, of one collection. `wanted` is the number of points that the caller is going to take.
    """
    return _Reader(scroll, ordering, condition, min(wanted, _MAX_PAGE)).places(after)


class _Reader:
    def __init__(
        self, scroll: Callable[..., Any], ordering: Ordering, condition: ParsedFilter | None, page: int
    ) -> None:
        self._scroll = scroll
        self._ordering = ordering
        self._condition = condition
        self._page = page
        self._path = field_path(ordering.field)

    def places(self, after: OrderPlace | None) -> Iterator[OrderPlace]:
        if after is None or after.key is not None:
            yield from self._with_value(after)
        without = models.Filter(must_not=[self._range()])
        yield from self._by_id(without, None, after.id if after is not None and after.key is None else None)

    def _with_value(self, after: OrderPlace | None) -> Iterator[OrderPlace]:
        if after is not None:
            yield from self._equal(after.key, after.id)
        key = None if after is None else after.key
        while True:
            found, is_full = self._by_value(key)
            if not is_full:
                yield from found
                return
            # Of the points with the last value only some may be in this page, in any order.
            key = found[-1].key
            yield from (each for each in found if each.key != key)
            yield from self._equal(key, None)

    def _by_value(self, after: OrderKey) -> tuple[list[OrderPlace], bool]:
        """Return one page of the points whose first value comes after `after`, and True if there may be more."""
        descending = self._ordering.descending
        records, _ = self._scroll(
            scroll_filter=self._narrowed(None if after is None else models.Filter(must_not=[self._up_to(after)])),
            order_by=models.OrderBy(
                key=self._path,
                direction=models.Direction.DESC if descending else models.Direction.ASC,
                start_from=self._start(after),
            ),
            limit=self._page,
            with_payload=False,
        )
        first: dict[str, OrderKey] = {}
        for record in records:
            key = record.order_value if self._ordering.kind == DATETIME else float(record.order_value)
            first.setdefault(str(record.id), key)
        places = sorted((OrderPlace(key, each) for each, key in first.items()), key=self._ordering.rank)
        return places, len(records) == self._page

    def _equal(self, key: OrderKey, after: str | None) -> Iterator[OrderPlace]:
        """Yield the points whose first value is `key`, by id."""
        earlier = self._range(**{"gt" if self._ordering.descending else "lt": key})
        yield from self._by_id(models.Filter(must=[self._range(gte=key, lte=key)], must_not=[earlier]), key, after)

    def _by_id(self, condition: models.Filter, key: OrderKey, after: str | None) -> Iterator[OrderPlace]:
        offset: Any = after
        while True:
            records, offset = self._scroll(
                scroll_filter=self._narrowed(condition), offset=offset, limit=self._page + 1, with_payload=False
            )
            yield from (OrderPlace(key, str(record.id)) for record in records if str(record.id) != after)
            if offset is None:
                return

    def _up_to(self, key: OrderKey) -> models.FieldCondition:
        return self._range(**{"gte" if self._ordering.descending else "lte": key})

    def _start(self, after: OrderKey) -> Any:
        """Return the value from which Qdrant reads its index, so that it does not read all values before."""
        if after is None or self._ordering.kind == DATETIME:
            return None if after is None else _moment(after)
        if self._ordering.kind == INTEGER:
            # Larger ones are rounded, and the index compares whole numbers exactly.
            return int(after) if abs(after) < MAX_EXACT_FLOAT else None
        return float(after)

    def _range(self, **bounds: OrderKey) -> models.FieldCondition:
        """Return the condition that a value is within bounds; without any, that there is a value."""
        if self._ordering.kind == DATETIME:
            moments = {name: _moment(key) for name, key in bounds.items() if key is not None}
            condition: Any = models.DatetimeRange(**moments or {"gte": datetime.min.replace(tzinfo=UTC)})
        else:
            condition = models.Range(**bounds or {"gte": -sys.float_info.max})
        return models.FieldCondition(key=self._path, range=condition)

    def _narrowed(self, condition: models.Filter | None) -> models.Filter | None:
        both: list[Any] = [each for each in (self._condition, condition) if each is not None]
        return models.Filter(must=both) if both else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _microseconds(value: object) -> int | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: float) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
