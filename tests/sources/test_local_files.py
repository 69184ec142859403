"""Objects in local directories."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from viewfinder.errors import ObjectError, SourceError
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import file_path, file_uri


def test_the_etag_of_a_local_file_changes_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a b#%.jpg"
    path.write_bytes(b"one")
    uri = file_uri(str(path))
    with Objects() as objects:
        data, version = objects.read(uri, 10)
        assert (data, version) == (b"one", objects.stat(uri).version)
        path.write_bytes(b"other")
        assert objects.read(uri, 10).version.etag != version.etag


def _missing(directory: Path) -> Path:
    return directory / "missing"


def _below_a_file(directory: Path) -> Path:
    (directory / "file").touch()
    return directory / "file" / "x"


def _pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


def _socket(directory: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "s"))
    return directory / "s"


def _link_to_itself(directory: Path) -> Path:
    (directory / "loop").symlink_to(directory / "loop")
    return directory / "loop"


def _large(directory: Path) -> Path:
    (directory / "large").write_bytes(b"12345")
    return directory / "large"


def _long_name(directory: Path) -> Path:
    return directory / ("x" * 300)


def _unreadable(directory: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root may read everything: run the tests as another user")
    (directory / "closed").touch(mode=0)
    return directory / "closed"


@pytest.mark.parametrize(
    ("make", "reason", "permanent"),
    [
        (_missing, "not_found", False),
        (_below_a_file, "not_found", False),
        (_link_to_itself, "not_found", False),
        (_long_name, "not_found", False),
        (_pipe, "not_a_file", False),
        (_socket, "not_a_file", False),
        (lambda directory: directory, "not_a_file", False),
        (_large, "too_many_bytes", True),
        (_unreadable, "access_denied", False),
    ],
)
def test_reading_an_unusable_local_file_fails_with_a_reason_and_never_blocks(make, reason, permanent, tmp_path) -> None:  # type: ignore[no-untyped-def]
    uri = file_uri(str(make(tmp_path)))
    with Objects() as objects, pytest.raises(ObjectError) as caught:
        objects.read(uri, 4)
    assert (caught.value.reason, caught.value.permanent) == (reason, permanent)
    assert repr(uri) in caught.value.message


def test_a_directory_is_listed_in_order_without_hidden_and_special_files(tmp_path: Path) -> None:
    for name in ["b/2.jpg", "b/1.jpg", "a.jpg", ".DS_Store", ".git/x", "b/.hidden", "c"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    with Objects() as objects:
        found = [file_path(info.uri) for info in objects.list(file_uri(str(tmp_path)))]
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == [
        "a.jpg", "b/1.jpg", "b/2.jpg", "c", "link.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(("seconds", "expected"), [(2**40, ""), (0, "1970-01-01T00:00:00Z")])
def test_a_file_time_that_no_calendar_has_is_unknown(seconds: int, expected: str) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:  # other file systems refuse such times
        os.utime(file.name, (seconds, seconds))
        with Objects() as objects:
            info = objects.stat(file_uri(file.name))
    assert info.last_modified == expected


def test_linked_directories_are_followed_except_into_a_parent(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").touch()
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "also").symlink_to(tmp_path / "real")
    with Objects() as objects:
        found = sorted(
            Path(info.key).relative_to(tmp_path).as_posix() for info in objects.list(file_uri(str(tmp_path)))
        )
        below = [Path(info.key).name for info in objects.list(file_uri(str(tmp_path / "real")))]
    assert found == ["also/x.jpg", "real/x.jpg"]
    assert below == ["x.jpg"]


def test_a_listing_with_an_unreadable_directory_fails(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything: run the tests as another user")
    (tmp_path / "closed").mkdir(mode=0)
    with Objects() as objects, pytest.raises(SourceError, match="closed"):
        list(objects.list(file_uri(str(tmp_path))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imgaes", "no file or directory .*imgaes.*Similar names: .*images"),
        ("empty", "no files under"),
        ("pipe", "neither"),
    ],
)
def test_check_says_what_is_wrong_with_a_local_source(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with Objects() as objects:
        objects.check(file_uri(str(tmp_path / "images")))
        objects.check(file_uri(str(tmp_path / "images" / "1.jpg")))
        with pytest.raises(SourceError, match=message):
            objects.check(file_uri(str(tmp_path / name)))
