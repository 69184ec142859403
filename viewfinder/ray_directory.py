"""The directory in which Ray keeps its files on this machine."""

import os
import sys
from pathlib import Path


def ray_directory() -> Path:
    """Return where a Ray started without `--temp-dir` keeps its sessions, their logs, and the cluster's address."""
    parent = os.environ.get("RAY_TMPDIR")
    if parent is None and sys.platform.startswith("linux"):
        parent = os.environ.get("TMPDIR")
    return Path("/tmp" if parent is None else parent, "ray")
