"""The search path of the processes that this package starts."""

import sys
from pathlib import Path

import pytest

from viewfinder import child

ROOT = str(Path(child.__file__).parents[1])


def search_path() -> list[str]:
    return child.child_command("os.path:basename", "x")[5:]


def test_it_is_that_of_this_process_without_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of installed packages came before the standard library, and `''` is the directory of a notebook."""
    monkeypatch.chdir(tmp_path)
    others = [entry for entry in sys.path if entry not in ("", ROOT)]
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *others])
    assert search_path() == [*others, ROOT]
    monkeypatch.setattr(sys, "path", [*others, ROOT, "/no/such/folder"])
    assert search_path() == [*others, ROOT, "/no/such/folder"]
    monkeypatch.chdir(ROOT)
    assert ROOT in search_path()
