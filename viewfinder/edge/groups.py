"""Groups of hits that share a value of a field, which the engine itself does not make."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import qdrant_edge

from viewfinder.edge.queries import DEFAULT_LIMIT, payload_selector, point_json, query_request

Adapt: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_DEFAULT_SIZE = 3


def query_groups(
    shard: qdrant_edge.EdgeShard, body: Mapping[str, Any], adapt: Adapt = lambda search: search
) -> list[dict[str, Any]]:
    """Return the best groups, best first, each with its best hits. A hit with several values is in several groups.

    `adapt` returns each search as the shard should receive it.
    """
    limit, size = body.get("limit") or DEFAULT_LIMIT, body.get("group_size") or _DEFAULT_SIZE
    groups = _Groups(shard, body, adapt)
    groups.find(limit, size)
    groups.fill(size)
    return groups.answer(size)


class _Groups:
    def __init__(self, shard: qdrant_edge.EdgeShard, body: Mapping[str, Any], adapt: Adapt) -> None:
        self._shard = shard
        self._adapt = adapt
        self._body = body
        self._field = str(body["group_by"])
        self._hits: dict[Any, list[Any]] = {}
        self._partial: set[Any] = set()

    def find(self, limit: int, size: int) -> None:
        """Search for hits of further groups, until there are `limit` groups or all.

        Searches leave out hits of the groups found before: a field with few values would have all points searched.
        """
        wanted = limit * size
        while len(self._hits) < limit:
            found = self._search({"limit": wanted, "with_payload": [self._field], **self._inside(*self._others())})
            new = self._add(found, limit)
            if len(found) < wanted:
                return
            self._partial.update(new)
            if not new:
                wanted *= 4

    def fill(self, size: int) -> None:
        """Search for the further hits of groups with fewer than `size`."""
        for value in self._partial:
            if len(self._hits[value]) < size:
                same = self._inside({"key": self._field, "match": {"value": value}})
                self._hits[value] = self._search({"limit": size, "with_payload": False, **same})

    def answer(self, size: int) -> list[dict[str, Any]]:
        """Return the groups as JSON, their hits with the payload that was asked for."""
        chosen = {value: hits[:size] for value, hits in self._hits.items()}
        ids = list({hit.id for hits in chosen.values() for hit in hits})
        selector = payload_selector(self._body.get("with_payload"), default=False)
        payloads = {each.id: each.payload for each in self._shard.retrieve(ids, selector, False)} if selector else {}
        return [
            {"id": value, "hits": [{**point_json(hit), "payload": payloads.get(hit.id)} for hit in hits]}
            for value, hits in chosen.items()
        ]

    def _add(self, found: list[Any], limit: int) -> dict[Any, list[Any]]:
        """Add the groups of hits, up to `limit` in all, and return the new ones."""
        new: dict[Any, list[Any]] = {}
        for hit in found:
            for value in dict.fromkeys(_values(hit.payload or {}, self._field)):
                if value in new or (value not in self._hits and len(self._hits) + len(new) < limit):
                    new.setdefault(value, []).append(hit)
        self._hits |= new
        return new

    def _others(self) -> Iterator[dict[str, Any]]:
        """Yield conditions for points with another value than those found; one has values of one type."""
        for kind in (str, int):
            if values := [each for each in self._hits if isinstance(each, kind)]:
                yield {"key": self._field, "match": {"except": values}}

    def _inside(self, *conditions: dict[str, Any]) -> dict[str, Any]:
        return {"filter": {"must": [*conditions, *filter(None, [self._body.get("filter")])]}}

    def _search(self, changes: Mapping[str, Any]) -> list[Any]:
        return self._shard.query(query_request(self._adapt({**self._body, "offset": 0, **changes})))


def _values(payload: Any, path: str) -> Iterator[str | int]:
    """Yield the values at a path of names with dots; only strings and whole numbers make groups."""
    name, _, rest = path.partition(".")
    if not isinstance(payload, Mapping):
        return
    value = payload.get(name.removesuffix("[]").strip('"'))
    for each in value if isinstance(value, list) else [value]:
        if rest:
            yield from _values(each, rest)
        elif isinstance(each, str) or (isinstance(each, int) and not isinstance(each, bool)):
            yield each
