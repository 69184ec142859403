"""Commands of Python processes that this package starts."""

import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).absolute().parents[1]


def child_command(function: str, *arguments: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """Return the command of a process that calls a function, `module:name`, with these arguments.

    `variables` are in its environment before anything is imported. The process has the module search path of this one
    without the current directory, and neither PYTHON* variables nor .pth files. `python -m` would look there first, and
    run a `signal.py` of a user.
    """
    module, _, name = function.partition(":")
    boot = [
        "import os, sys",
        *(f"os.putenv({key!r}, {value!r})" for key, value in (variables or {}).items()),
        "sys.path[:] = sys.argv[1:]",
        f"from {module} import {name}",
        f"{name}({', '.join(map(repr, arguments))})",
    ]
    return [sys.executable, "-I", "-S", "-c", "; ".join(boot), *_search_path()]


def _search_path() -> list[str]:
    """Return the search path of this process in its order, with the folder of this package."""
    root = str(_ROOT)
    entries = [str(Path(entry).absolute()) for entry in sys.path if entry]
    entries = [entry for entry in entries if entry == root or not _is_current(Path(entry))]
    return entries if root in entries else [*entries, root]


def _is_current(directory: Path) -> bool:
    try:
        return directory.samefile(Path())
    except OSError:  # one of them does not exist
        return False
