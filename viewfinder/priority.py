"""The priority of a process beside others that want the processor."""

import os
import time
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
# Linux lets users without privileges change one group in 100 ms.
_ATTEMPTS, _WAIT_S = 10, 0.11


def lower_session_priority(niceness: int) -> None:
    """Let other programs go before this process, which has a session of its own; `niceness` is at most 19.

    Linux may group the processes of each session, and `nice` then counts only within a group (`man 7 sched`, "The
    autogroup feature"). So the group gets the niceness too, where `/proc` can be written.
    """
    os.nice(niceness)
    for _ in range(_ATTEMPTS):
        with suppress(OSError):
            try:
                _AUTOGROUP.write_text(str(niceness))
            except BlockingIOError:
                time.sleep(_WAIT_S)
                continue
        return
