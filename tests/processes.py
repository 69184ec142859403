"""Processes that a test has started, from /proc."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path


def children(of: int | None = None) -> set[int]:
    """Process ids of the children of a process (default: this one), started by whichever of its threads."""
    return _by_parent()[of or os.getpid()]


def descendants(of: int) -> Iterator[int]:
    """Descendants of a process, so that no process of another program is ever ended."""
    by_parent = _by_parent()
    waiting = [of]
    while waiting:
        found = by_parent[waiting.pop()]
        yield from found
        waiting.extend(found)


def command(process: int) -> str:
    """The command line of a process, its words separated by spaces; empty when it has ended."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return words.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def _by_parent() -> Mapping[int, set[int]]:
    """All processes by their parent, in one pass: a test that looks for a short task looks often."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:  # it has ended
                continue
            # Its name, in parentheses, may hold spaces.
            found[int(stat.rpartition(b")")[2].split()[1])].add(int(entry.name))
    return found
