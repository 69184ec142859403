"""Groups of hits that share a value of a field, which the engine itself does not make."""

from collections.abc import Iterator, Mapping
from typing import Any

import qdrant_edge

from viewfinder.edge.queries import DEFAULT_LIMIT, payload_selector, point_json, query_request

_DEFAULT_SIZE = 3


def query_groups(shard: qdrant_edge.EdgeShard, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the best groups, best first, each with its best hits. A hit with several values is in several groups."""
    limit, size = body.get("limit") or DEFAULT_LIMIT, body.get("group_size") or _DEFAULT_SIZE
    groups = _Groups(shard, body)
    groups.find(limit, size)
    groups.fill(size)
    return groups.answer(size)


class _Groups:
    def __init__(self, shard: qdrant_edge.EdgeShard, body: Mapping[str, Any]) -> None:
        self._shard = shard
        self._body = body
        self._field = str(body["group_by"])
        self._hits: dict[Any, list[Any]] = {}
        self._complete = False

    def find(self, limit: int, size: int) -> None:
        """Search for more and more hits, until they are of `limit` groups or all there are."""
        wanted = limit * size
        while True:
            found = self._search({"limit": wanted, "with_payload": [self._field]})
            self._hits = {}
            for hit in found:
                for value in dict.fromkeys(_values(hit.payload or {}, self._field)):
                    if value in self._hits or len(self._hits) < limit:
                        self._hits.setdefault(value, []).append(hit)
            self._complete = len(found) < wanted
            if self._complete or len(self._hits) == limit:
                return
            wanted *= 4

    def fill(self, size: int) -> None:
        """Search for the further hits of groups with fewer than `size`."""
        for value, hits in self._hits.items():
            if len(hits) < size and not self._complete:
                same = {"key": self._field, "match": {"value": value}}
                inside = {"must": [same, *filter(None, [self._body.get("filter")])]}
                self._hits[value] = self._search({"limit": size, "with_payload": False, "filter": inside})

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

    def _search(self, changes: Mapping[str, Any]) -> list[Any]:
        return self._shard.query(query_request({**self._body, "offset": 0, **changes}))


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
