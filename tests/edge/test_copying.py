"""Files of a shard's directory in the system's cache."""

import ctypes
import mmap
import os
from pathlib import Path

from viewfinder.edge.copying import read_directory


def is_cached(path: Path) -> bool:
    """Return True if the system has all of a file in its cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), pages)
        del first  # otherwise the file cannot be unmapped
    return not failed and all(page & 1 for page in pages)


def test_a_directory_that_was_read_is_in_the_systems_cache(tmp_path: Path) -> None:
    """Regression: after a graph was built, searches read the vectors from disk, one page at a time."""
    path = tmp_path / "segments" / "matrix.dat"
    path.parent.mkdir()
    path.write_bytes(os.urandom(1_000_000))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    read_directory(tmp_path)
    assert is_cached(path)
