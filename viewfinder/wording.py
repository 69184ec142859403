"""Words in messages."""

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 object", "2,000 objects", "3 queries"."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def listed(names: Sequence[str], maximum: int) -> str:
    """Return the first `maximum` names, and how many there are beyond: "a, b and 3 more"."""
    more = f" and {len(names) - maximum} more" if len(names) > maximum else ""
    return ", ".join(names[:maximum]) + more
