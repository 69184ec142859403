"""Files of a shard's directory in the system's cache."""

import ctypes
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.edge.builder import settle
from viewfinder.edge.copying import cache_directory, stored_bytes
from viewfinder.edge.engine import SharedEngine
from viewfinder.edge.process import ShardProcess
from viewfinder.edge.templates import ShardPlace

COUNT, DIMENSION = 4_000, 256


def is_cached(path: Path) -> bool:
    """Return True if the system has all of a file in its cache, but for the holes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), pages)
        del first  # otherwise the file cannot be unmapped
        assert not failed
        return sum(page & 1 for page in pages) >= os.fstat(file.fileno()).st_blocks * 512 // mmap.PAGESIZE


def drop(path: Path) -> None:
    """Remove a file from the system's cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.slow
def test_the_files_of_a_shard_that_is_opened_are_read(disk: Path) -> None:
    """Regression: after a graph was built, and after a start, searches read the vectors from disk, a page at a time."""
    image = {"size": DIMENSION, "distance": "Cosine", "on_disk": True}
    vectors = np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).tolist()
    engine = SharedEngine(disk, quiet_s=0)
    config = {"vectors": {"image": image}, "optimizers_config": {"indexing_threshold": 100}}
    engine.answer("PUT", "/collections/a", config)
    batch = {"ids": list(range(COUNT)), "vectors": {"image": vectors}, "payloads": [{}] * COUNT}
    engine.answer("PUT", "/collections/a/points", {"batch": batch})
    wait_until(lambda: engine.answer("GET", "/collections/a")["status"] == "green")
    engine.close()
    (file,) = [path for path in disk.rglob("matrix.dat") if path.stat().st_size > COUNT * DIMENSION * 4]
    drop(file)
    if is_cached(file):
        pytest.skip("/var/tmp is in memory")
    engine = SharedEngine(disk)
    try:
        engine.answer("GET", "/collections/a")
        wait_until(lambda: is_cached(file))
    finally:
        engine.close()


def test_the_files_of_a_shard_with_new_graphs_are_read_by_who_built_them(disk: Path) -> None:
    """Searches were slow while the process that takes over read them."""
    (disk / "file").write_bytes(os.urandom(600_000))
    drop(disk / "file")
    if is_cached(disk / "file"):
        pytest.skip("/var/tmp is in memory")
    settle(disk)
    assert is_cached(disk / "file")


@pytest.mark.slow
def test_a_shard_whose_files_are_cached_does_not_read_them(disk: Path) -> None:
    config = {"vectors": {"image": {"size": 4, "distance": "Cosine"}}}
    place = ShardPlace(disk / "shard", config)
    ShardProcess(place).close()
    (disk / "shard" / "further").write_bytes(os.urandom(100_000))
    drop(disk / "shard" / "further")
    if is_cached(disk / "shard" / "further"):
        pytest.skip("/var/tmp is in memory")
    read = ShardProcess(place, is_cached=True)
    read.answer("GET info", None)
    time.sleep(0.5)
    read.close()
    assert not is_cached(disk / "shard" / "further")
    read = ShardProcess(place)
    wait_until(lambda: is_cached(disk / "shard" / "further"))
    read.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 250
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a disk: files in memory are always in the cache."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


def test_folders_that_are_removed_meanwhile_are_left_out(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        (disk / name).mkdir()
        (disk / name / "file").write_bytes(os.urandom(100_000))
        drop(disk / name / "file")
    if is_cached(disk / "a" / "file"):
        pytest.skip("/var/tmp is in memory")
    preadv, gone = os.preadv, []

    def remove_another(file: int, *arguments: Any) -> int:
        if not gone:
            read = Path(f"/proc/self/fd/{file}").readlink().parent.name
            gone.append(next(name for name in names if name != read))
            shutil.rmtree(disk / gone[0])
        return preadv(file, *arguments)

    monkeypatch.setattr(os, "preadv", remove_another)
    cache_directory(disk)
    assert [name for name in names if name not in gone and not is_cached(disk / name / "file")] == []
    assert gone


def test_files_that_would_fill_the_memory_are_not_read(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk / "file").write_bytes(os.urandom(100_000))
    drop(disk / "file")
    if is_cached(disk / "file"):
        pytest.skip("/var/tmp is in memory")
    monkeypatch.setattr("viewfinder.edge.copying.available_memory", lambda: 190_000)
    cache_directory(disk)
    assert not is_cached(disk / "file")
    monkeypatch.setattr("viewfinder.edge.copying.available_memory", lambda: 300_000)
    cache_directory(disk, pause_s=0.001)
    assert is_cached(disk / "file")


def test_files_that_are_removed_meanwhile_take_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(os.urandom(10_000))
    lstat = os.lstat

    def remove_another(path: Path) -> os.stat_result:
        (tmp_path / "b").unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", remove_another)
    assert 20_000 <= stored_bytes(tmp_path) < 30_000
