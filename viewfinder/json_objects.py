"""JSON objects in which each name is given once: of repeated ones Python would keep the last, and drop a condition."""

import json
from typing import Any


class RepeatedNameError(ValueError):
    """A name that an object has twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name[:80]!r} is given twice in one object")


def parse_unrepeated(text: str) -> Any:
    """Parse JSON; raises `RepeatedNameError`, and `ValueError` or `RecursionError` if it is not JSON."""
    return json.loads(text, object_pairs_hook=_unrepeated)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedNameError(next(each for each in names if names.count(each) > 1))
    return made
