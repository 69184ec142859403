"""Words in messages."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 object", "2,000 objects", "3 queries"."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"
