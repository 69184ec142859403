"""Processes that a test has started, from /proc."""

import os
from collections.abc import Iterator
from pathlib import Path


def children(of: int | None = None) -> set[int]:
    """Process ids of the children of a process (default: this one), started by whichever of its threads."""
    parent = str(of or os.getpid())
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == parent}


def descendants(of: int) -> Iterator[int]:
    """Descendants of a process, so that no process of another program is ever ended."""
    for child in children(of):
        yield child
        yield from descendants(child)


def command(process: int) -> str:
    """The command line of a process, its words separated by spaces; empty when it has ended."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def _parent(entry: Path) -> str | None:
    try:
        stat = (entry / "stat").read_text(errors="replace")
    except OSError:  # it has ended
        return None
    return stat.rpartition(")")[2].split()[1]  # its name, in parentheses, may hold spaces
