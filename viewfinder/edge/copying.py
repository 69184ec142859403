"""Copies of a shard's directory. Its files are large and mostly empty; copies keep their holes."""

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from viewfinder.memory import available_memory

_CHUNK = 256 * 1024
_PAGE = 4096
_ZEROS = bytes(_CHUNK)
# Files are read in advance if they take less than this share of the available memory.
_CACHED_SHARE = 0.5


def copy_directory(source: Path, target: Path) -> None:
    """Copy a directory tree; `target` must not exist. Zeros become holes, and take no space on disk."""
    target.mkdir(parents=True)
    for each in sorted(source.iterdir()):
        if each.is_dir():
            copy_directory(each, target / each.name)
        else:
            write_data(target / each.name, each.stat().st_size, data_of(each))


def stored_bytes(directory: Path) -> int:
    """Return the space that a directory takes on disk, without holes. Its files may be removed meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(Path(folder, name)).st_blocks * 512
    return total


def data_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a file that are not zero, with their offsets."""
    with path.open("rb", buffering=0) as file:
        for begin, end in _chunks(file.fileno()):
            yield from _pieces(begin, os.pread(file.fileno(), end - begin, begin))


def write_data(path: Path, size: int, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write a file of this size with these pieces, zero elsewhere."""
    with path.open("wb", buffering=0) as file:
        file.truncate(size)
        for place, piece in pieces:
            os.pwrite(file.fileno(), piece, place)


def cache_directory(directory: Path, pause_s: float = 0.0) -> None:
    """Read the files of a shard into the system's cache, unless they take too much of the available memory.

    Whoever closed the shard or built its graphs has dropped the vectors from it, and searches would read them from disk
    a page at a time. The files may be removed meanwhile. `pause_s` is the time between pieces of 256 kB.
    """
    if stored_bytes(directory) >= _CACHED_SHARE * (available_memory() or 0):
        return
    buffer = bytearray(_CHUNK)
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError), Path(folder, name).open("rb", buffering=0) as file:
                for begin, _ in _chunks(file.fileno()):
                    os.preadv(file.fileno(), [buffer], begin)
                    if pause_s:
                        time.sleep(pause_s)


def sync_directory(directory: Path) -> None:
    """Write a directory tree to disk."""
    for folder, _, names in os.walk(directory):
        for name in (*names, "."):
            sync(Path(folder, name))


def sync(path: Path) -> None:
    """Write a file, or the entries of a folder, to disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _chunks(file: int) -> Iterator[tuple[int, int]]:
    """Yield the beginning and the end of each piece of an open file, without its holes."""
    size = os.fstat(file).st_size
    end = 0
    while (begin := _seek(file, end, os.SEEK_DATA, size)) < size:
        end = _seek(file, begin, os.SEEK_HOLE, size)
        for place in range(begin, end, _CHUNK):
            yield place, min(place + _CHUNK, end)


def _seek(file: int, place: int, whence: int, size: int) -> int:
    try:
        return os.lseek(file, place, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data behind this place
            return size
        raise


def _pieces(place: int, chunk: bytes) -> Iterator[tuple[int, bytes]]:
    # A file system in memory has no holes where the engine has written zeros.
    if chunk == _ZEROS[: len(chunk)]:
        return
    if chunk.count(0) < len(chunk) // 2:
        yield place, chunk
        return
    for start in range(0, len(chunk), _PAGE):
        page = chunk[start : start + _PAGE]
        if page != _ZEROS[: len(page)]:
            yield place + start, page
