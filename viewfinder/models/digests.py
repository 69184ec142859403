"""SHA-256 digests of files. Those of large files are kept on disk: reading a model and its export takes a second.

    HF_HOME/viewfinder/digests.json     {path: [inode, size, time of writing, time of change, digest]}, times in ns

A file has the digest that was kept if nothing of these has changed. The time of change cannot be set, so that a copy
which keeps the time of writing counts as another file. A file that changed a moment ago is not kept: it may change
again without another time.
"""

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_LARGE_BYTES = 1_000_000
_RECENT_NS = 2_000_000_000

_KEEPING = threading.Lock()

_Identity = tuple[int, int, int, int]


def sha256(path: Path) -> str:
    """Return the digest in hexadecimal; raise `OSError` if the file cannot be read."""
    return _digest(path.resolve(), _identity(path.stat()))


# A replica checks for a new model every few seconds.
@functools.lru_cache(maxsize=64)
def _digest(path: Path, identity: _Identity) -> str:
    if identity[1] < _LARGE_BYTES:
        return _read(path)
    if (kept := _load().get(str(path))) is not None and tuple(kept[:-1]) == identity:
        return str(kept[-1])
    found = _read(path)
    if _identity(path.stat()) == identity and max(identity[2:]) < time.time_ns() - _RECENT_NS:
        with contextlib.suppress(OSError):  # a cache that cannot be written
            _keep(path, [*identity, found])
    return found


def _identity(status: os.stat_result) -> _Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load() -> dict[str, list[Any]]:
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
        return {path: values for path, values in kept.items() if isinstance(values[-1], str)}
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return {}


def _keep(path: Path, values: list[Any]) -> None:
    """Add a digest. Of two processes at once one may lose its own, and read that file again."""
    with _KEEPING:
        kept = {other: found for other, found in _load().items() if Path(other).exists()}
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".digests.", dir=file.parent) as folder:
            written = Path(folder) / file.name
            written.write_text(json.dumps({**kept, str(path): values}, indent=0), encoding="utf-8")
            written.replace(file)


def _file() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "viewfinder" / "digests.json"
