"""Digests of large files, kept on disk for the next process."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from viewfinder.models import digests

SIZE = 1_000_000

Read = list[Path]


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of digests, of files that may have changed just now."""
    path = tmp_path / "home" / "digests.json"
    monkeypatch.setattr(digests, "_file", lambda: path)
    monkeypatch.setattr(digests, "_RECENT_NS", -(10**12))
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """The files that were read, in order."""
    files: Read = []
    reading: Callable[[Path], str] = digests._read
    monkeypatch.setattr(digests, "_read", lambda path: [files.append(path), reading(path)][1])
    return files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * SIZE)
    return path


def in_another_process(path: Path) -> str:
    digests._digest.cache_clear()
    return digests.sha256(path)


def test_a_large_file_is_read_once(kept: Path, file: Path, read: Read) -> None:
    expected = digest_of(b"a" * SIZE)
    assert [in_another_process(file) for _ in range(3)] == [expected] * 3
    assert read == [file]


def test_a_small_file_is_not_kept(kept: Path, file: Path) -> None:
    file.write_bytes(b"a" * (SIZE - 1))
    assert in_another_process(file) == digest_of(b"a" * (SIZE - 1))
    assert not kept.exists()


def test_a_link_has_the_digest_of_its_file(kept: Path, file: Path, read: Read, tmp_path: Path) -> None:
    """The cache of the hub holds links."""
    link = tmp_path / "snapshot"
    link.symlink_to(file)
    assert in_another_process(link) == in_another_process(file)
    assert read == [file]
    other = tmp_path / "other"
    other.write_bytes(b"b" * SIZE)
    link.unlink()
    link.symlink_to(other)
    assert in_another_process(link) == digest_of(b"b" * SIZE)


@pytest.mark.parametrize("replaced", [False, True])
def test_another_content_of_the_same_size_and_time_is_read(
    kept: Path, file: Path, tmp_path: Path, replaced: bool
) -> None:
    in_another_process(file)
    before = file.stat()
    path = tmp_path / "new" if replaced else file
    path.write_bytes(b"b" * SIZE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.rename(file)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert in_another_process(file) == digest_of(b"b" * SIZE)


def test_a_file_that_changed_a_moment_ago_is_not_kept(kept: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_RECENT_NS", 3600 * 10**9)
    in_another_process(file)
    assert not kept.exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    kept: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        path.write_bytes(b"b" * (SIZE + 1))
        return digest_of(b"a" * SIZE)

    monkeypatch.setattr(digests, "_read", read)
    in_another_process(file)
    assert not kept.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '{"PATH": 1}', '{"PATH": []}', '{"PATH": [1, null]}'])
def test_a_damaged_file_of_digests_is_made_again(kept: Path, file: Path, read: Read, content: str) -> None:
    kept.parent.mkdir()
    kept.write_text(content.replace("PATH", str(file)))
    assert [in_another_process(file) for _ in range(2)] == [digest_of(b"a" * SIZE)] * 2
    assert read == [file]


def test_a_directory_that_cannot_be_written_keeps_nothing(kept: Path, file: Path) -> None:
    kept.parent.touch()
    assert [in_another_process(file) for _ in range(2)] == [digest_of(b"a" * SIZE)] * 2


def test_files_that_are_gone_are_forgotten(kept: Path, file: Path, tmp_path: Path) -> None:
    in_another_process(file)
    moved = file.rename(tmp_path / "moved")
    in_another_process(moved)
    assert list(json.loads(kept.read_text())) == [str(moved)]
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_threads_lose_no_digest(kept: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"part-{number}" for number in range(8)]
    for path in files:
        path.write_bytes(b"a" * SIZE)
    threads = [Thread(target=digests.sha256, args=(path,)) for path in files]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert json.loads(kept.read_text()).keys() == {str(path) for path in files}


def test_a_missing_file_is_an_error(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digests.sha256(tmp_path / "missing")
