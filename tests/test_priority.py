"""Processes in the background give way to others."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
from pathlib import Path
from viewfinder import priority

group = Path("/proc/self/autogroup")
{}
priority.lower_session_priority(10)
print(os.nice(0), group.read_text() if group.exists() else "none")
"""


def lowered(code: str = "") -> list[str]:
    """The niceness of a program with a session of its own, and the words about that session."""
    command = [sys.executable, "-c", PROGRAM.format(code)]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not os.access("/proc/self/autogroup", os.W_OK), reason="this kernel does not group sessions")
def test_a_session_comes_after_others_as_a_whole() -> None:
    niceness, *group = lowered()
    assert int(niceness) == min(19, os.nice(0) + 10)
    assert group[-2:] == ["nice", "10"]


def test_a_kernel_that_does_not_group_sessions_is_no_error() -> None:
    niceness, *_ = lowered("priority._AUTOGROUP = Path('/proc/none')")
    assert int(niceness) == min(19, os.nice(0) + 10)


BUSY = """
class Busy:
    refusals = [BlockingIOError, BlockingIOError]

    def write_text(self, text):
        if self.refusals:
            raise self.refusals.pop()
        print("wrote", text)

priority._AUTOGROUP = Busy()
"""


def test_a_kernel_that_refuses_for_a_moment_is_asked_again() -> None:
    assert lowered(BUSY)[:2] == ["wrote", "10"]
