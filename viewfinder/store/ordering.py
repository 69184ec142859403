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
from viewfinder.store.field_names import DATETIME, FLOAT, INTEGER, field_path, values_of
from viewfinder.store.records import Record
from viewfinder.store.whole_numbers import MAX_EXACT_FLOAT, compared

OrderKey: TypeAlias = float | int | None
"""A number, microseconds since 1970 for a date, None for a point without a value."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_PAGE = 1000  # points read at once
# Points read beyond those wanted, because the points with the last value of a page are read again, by id.
_EXTRA = 50


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
        keys = [key for key in map(_PARSED[self.kind], values_of(payload, self.field)) if key is not None]
        return (max if self.descending else min)(keys, default=None)

    def key_of(self, order_value: float) -> OrderKey:
        """Return the key of a value as Qdrant returns it with an order: a number, also for a date."""
        return order_value if self.kind == DATETIME else _PARSED[self.kind](order_value)

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
    return _Reader(scroll, ordering, condition, min(wanted + _EXTRA, _MAX_PAGE)).places(after)


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
        found, cut = self._first_page(after)
        while cut is not None:
            yield from (each for each in found if each.key != cut)
            yield from self._equal(cut, after.id if after is not None and after.key == cut else None)
            found, cut = self._by_value(cut, self._narrowed(models.Filter(must_not=[self._up_to(cut)])))
        yield from found

    def _first_page(self, after: OrderPlace | None) -> tuple[list[OrderPlace], OrderKey]:
        """Return a page as `_by_value`, after a place: points with its value are read again, and come by id."""
        if after is None:
            return self._by_value(None, self._condition)
        # The index begins at the value. A filter would make Qdrant check all points.
        begins_there = self._start(after.key) is not None
        condition = None if begins_there else models.Filter(must_not=[self._before(after.key)])
        found, cut = self._by_value(after.key, self._narrowed(condition))
        rank = self._ordering.rank
        return [each for each in found if each.key != after.key or rank(each) > rank(after)], cut

    def _by_value(self, start: OrderKey, condition: models.Filter | None) -> tuple[list[OrderPlace], OrderKey]:
        """Return one page of points by their first value, from `start` on; and their last value if there may be more.

        Of the points with that value only some may be in the page, in any order.
        """
        ordering = self._ordering
        records, _ = self._scroll(
            scroll_filter=condition,
            order_by=models.OrderBy(
                key=self._path,
                direction=models.Direction.DESC if ordering.descending else models.Direction.ASC,
                start_from=self._start(start),
            ),
            limit=self._page,
            with_payload=[ordering.field.partition(".")[0]],
        )
        first: dict[str, OrderKey] = {}
        for record in records:
            key = ordering.key_of(record.order_value)
            # A point with several values has its place at the first of them, which may be before `start`.
            if start is None or not self._is_before(ordering.key(record.payload or {}), start):
                first.setdefault(str(record.id), key)
        places = sorted((OrderPlace(key, each) for each, key in first.items()), key=ordering.rank)
        last = records[-1].order_value if len(records) == self._page else None
        return places, None if last is None else ordering.key_of(last)

    def _is_before(self, key: OrderKey, start: OrderKey) -> bool:
        return self._ordering.rank(OrderPlace(key, "")) < self._ordering.rank(OrderPlace(start, ""))

    def _equal(self, key: OrderKey, after: str | None) -> Iterator[OrderPlace]:
        """Yield the points whose first value is `key`, by id."""
        condition = models.Filter(must=[self._equals(key)], must_not=[self._before(key)])
        yield from self._by_id(condition, key, after)

    def _by_id(self, condition: models.Filter, key: OrderKey, after: str | None) -> Iterator[OrderPlace]:
        offset: Any = after
        while True:
            records, offset = self._scroll(
                scroll_filter=self._narrowed(condition), offset=offset, limit=self._page + 1, with_payload=False
            )
            yield from (OrderPlace(key, str(record.id)) for record in records if str(record.id) != after)
            if offset is None:
                return

    def _before(self, key: OrderKey) -> Any:
        return self._compared("gt" if self._ordering.descending else "lt", key)

    def _up_to(self, key: OrderKey) -> Any:
        return self._compared("gte" if self._ordering.descending else "lte", key)

    def _start(self, after: OrderKey) -> Any:
        """Return the value from which Qdrant reads its index, so that it does not read all values before."""
        if after is None or self._ordering.kind == DATETIME:
            return None if after is None else _moment(after)
        # Whole numbers may be rounded from there on, and the index may compare them exactly.
        if abs(after) >= MAX_EXACT_FLOAT:
            return None
        return int(after) if self._ordering.kind == INTEGER else float(after)

    def _is_large(self, key: OrderKey) -> bool:
        return self._ordering.kind == INTEGER and key is not None and abs(key) >= MAX_EXACT_FLOAT

    def _compared(self, operator: str, key: OrderKey) -> Any:
        """Return the condition that a value is `gt`, `gte`, `lt` or `lte` a key."""
        if key is not None and self._is_large(key):
            return compared(self._path, operator, key)
        return self._range(**{operator: key})

    def _equals(self, key: OrderKey) -> Any:
        if key is not None and self._is_large(key):
            return models.FieldCondition(key=self._path, match=models.MatchValue(value=int(key)))
        return self._range(gte=key, lte=key)

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


def _whole_number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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


_PARSED: Mapping[str, Callable[[object], OrderKey]] = {
    INTEGER: _whole_number,
    FLOAT: _number,
    DATETIME: _microseconds,
}
