"""Identity of the machine and the process namespace that this process runs in."""

import os
from pathlib import Path


def machine_id() -> str:
    """Return a text that all containers of a machine share until it boots again; elsewhere than on Linux its name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename


def process_space() -> str:
    """Return a text that processes share if a process id means the same to them: those of a machine or a container."""
    try:
        return f"{machine_id()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return machine_id()
