"""Sizes of requests: Qdrant refuses those above its limit, by default 32 MB, over REST and gRPC."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A float32 as JSON takes 22 bytes on average and 25 at most ("-1.2345678806304932e-05,").
_NUMBER_BYTES = 25
# A UUID with quotes and separators, or in a filter.
ID_BYTES = 64
_OVERHEAD_BYTES = 256


def json_bytes(value: Any) -> int:
    """Return the size of a JSON value."""
    return len(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))


def vector_bytes(dimension: int) -> int:
    """Return the maximum size of a vector as JSON."""
    return _NUMBER_BYTES * dimension


def point_bytes(payload: Mapping[str, Any], dimension: int) -> int:
    """Return the maximum size of a point with this payload and vectors of `dimension` numbers in all."""
    return json_bytes(payload) + vector_bytes(dimension) + ID_BYTES + _OVERHEAD_BYTES


@dataclass(frozen=True)
class RequestLimit:
    """The limit of one server, in bytes."""

    request_bytes: int

    @property
    def item_bytes(self) -> int:
        """Maximum size of one point, search or record; the rest of the request is for names and flags."""
        return self.request_bytes - self.request_bytes // 32

    def batches(self, sizes: Sequence[int], count: int) -> Iterator[range]:
        """Yield ranges of consecutive items for one request each: at most `count` items, or one larger item."""
        # Small values take twice their JSON over gRPC.
        maximum = self.request_bytes // 2
        start = total = 0
        for place, size in enumerate(sizes):
            if place > start and (place - start == count or total + size > maximum):
                yield range(start, place)
                start, total = place, 0
            total += size
        if start < len(sizes):
            yield range(start, len(sizes))

    def excess(self, size: int) -> str | None:
        """Return why an item of this size does not fit into a request; None if it does."""
        if size <= self.item_bytes:
            return None
        return (
            f"{_megabytes(size)}, more than Qdrant accepts in one request ({_megabytes(self.request_bytes)}, "
            "VIEWFINDER_QDRANT_MAX_REQUEST_MB)"
        )


def _megabytes(size: int) -> str:
    """Return a size as text: "40.1 MB"."""
    return f"{size / 1e6:.1f} MB"
