"""Commands of Python processes that this package starts."""

import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).absolute().parents[1]


def child_command(function: str, *arguments: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """Return the command of a process that calls a function, `module:name`, with these arguments.

    `variables` are in its environment before anything is imported. The process has the module search path of this one,
    and neither PYTHON* variables nor .pth files. `python -m` would look for modules in the current directory first, and
    run a `signal.py` that a user has there.
    """
    module, _, name = function.partition(":")
    boot = [
        "import os, sys",
        *(f"os.putenv({key!r}, {value!r})" for key, value in (variables or {}).items()),
        "sys.path[:] = sys.argv[1:]",
        f"from {module} import {name}",
        f"{name}({', '.join(map(repr, arguments))})",
    ]
    search_path = [str(_ROOT), *(str(Path(entry).absolute()) for entry in sys.path)]
    return [sys.executable, "-I", "-S", "-c", "; ".join(boot), *search_path]
