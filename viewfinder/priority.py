"""The priority of a process beside others that want the processor."""

import os
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def lower_session_priority(niceness: int) -> None:
    """Let other programs go before this process, which has a session of its own; `niceness` is at most 19.

    Linux may group the processes of each session, and `nice` then counts only within a group (`man 7 sched`, "The
    autogroup feature"). So the group gets the niceness too.
    """
    os.nice(niceness)
    with suppress(OSError):  # this kernel has no such groups
        _AUTOGROUP.write_text(str(niceness))
