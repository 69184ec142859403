"""Folders of shards that are to be deleted: a file beside each says so, until the folder is gone.

A folder without such a file is never deleted, although no collection has it: the registry may be an older copy.
"""

import shutil
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

_DOOMED = ".doomed"


def doom(directory: Path) -> None:
    """Let the next opening delete a shard, unless the registry has it by then."""
    with suppress(OSError):  # a full disk: if this program is killed now, the folder stays
        directory.with_suffix(_DOOMED).touch()


def spare(directory: Path) -> None:
    """Take that back, or note that the folder is gone."""
    with suppress(OSError):
        directory.with_suffix(_DOOMED).unlink()


def delete(directory: Path) -> None:
    """Delete a shard; what cannot be deleted now, the next opening tries again."""
    shutil.rmtree(directory, ignore_errors=True)
    if not directory.exists():
        spare(directory)


def delete_doomed(shards: Path, known: Set[str]) -> list[Path]:
    """Delete what killed programs had begun to make or to delete; return the other folders that are not `known`."""
    for each in shards.glob(f"*{_DOOMED}"):
        if each.stem in known:
            each.unlink()
        else:
            delete(each.with_suffix(""))
    for each in shards.glob("*.new"):
        shutil.rmtree(each, ignore_errors=True)
    for each in shards.glob("*.log"):
        each.unlink()
    return strays(shards, known)


def strays(shards: Path, known: Set[str]) -> list[Path]:
    """Return the folders that are not `known`."""
    return sorted(each for each in shards.glob("*") if each.is_dir() and each.name not in known)
