"""Exports on disk: complete, damaged, of another model, failed before."""

import errno
import os
from pathlib import Path

import pytest

from viewfinder.models.exporter import is_passing
from viewfinder.models.exports import FORMAT, ExportMissingError, Exports, Manifest, _machine, sha256
from viewfinder.models.text_length import TextLength

MODEL = "0123456789ab"


def publish(exports: Exports, *, fingerprint: str = MODEL, content: str = "weights") -> None:
    with exports.alone(MODEL), exports.publish(MODEL) as directory:
        (directory / "text.bin").write_text(content)
        files = {"text.bin": sha256(directory / "text.bin")}
        Manifest(
            fingerprint, "digest", "openvino 1", 100.0, -10.0, TextLength("end", 2), "float32", 0.9999, files
        ).save(directory)


def interrupt(exports: Exports) -> None:
    with exports.publish(MODEL) as directory:
        (directory / "text.bin").write_text("half")
        raise KeyboardInterrupt


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    return Exports(tmp_path / "exports")


def files(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path / "exports")) for path in (tmp_path / "exports").rglob("*"))


def test_what_is_published_is_found(exports: Exports) -> None:
    publish(exports)
    export = exports.find(MODEL)
    assert export.file("text.bin").read_text() == "weights"
    assert (export.manifest.logit_scale, export.manifest.logit_bias) == (100.0, -10.0)
    assert export.manifest.text_length == TextLength("end", 2)


def test_an_export_names_the_weights_that_it_was_made_of(exports: Exports, tmp_path: Path) -> None:
    assert exports.weights(MODEL) is None
    publish(exports)
    assert exports.weights(MODEL) == "digest"
    (manifest,) = (tmp_path / "exports").rglob("manifest.json")
    manifest.write_text("[]")
    assert exports.weights(MODEL) is None


def test_a_model_without_an_export_has_a_reason(exports: Exports) -> None:
    with pytest.raises(ExportMissingError, match="has not been exported") as missing:
        exports.find(MODEL)
    assert missing.value.retry


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.bin", "weightS"),
        ("text.bin", None),
        ("manifest.json", "{"),
        ("manifest.json", "{}"),
        ("manifest.json", "[]"),
        ("manifest.json", None),
    ],
)
def test_a_damaged_export_is_refused_and_made_again(
    exports: Exports, tmp_path: Path, name: str, content: str | None
) -> None:
    publish(exports)
    (path,) = (tmp_path / "exports").rglob(name)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ExportMissingError, match="is damaged") as damaged:
        exports.find(MODEL).verify()
    assert damaged.value.retry
    publish(exports, content="again")
    export = exports.find(MODEL)
    export.verify()
    assert export.file("text.bin").read_text() == "again"


def test_only_the_named_files_are_verified(exports: Exports, tmp_path: Path) -> None:
    publish(exports)
    export = exports.find(MODEL)
    (changed,) = (tmp_path / "exports").rglob("text.bin")
    changed.write_text("weightS")
    with pytest.raises(ExportMissingError, match=r"text\.bin has changed"):
        export.verify("text.bin")
    changed.unlink()
    with pytest.raises(ExportMissingError, match=r"is damaged \(.*text\.bin"):
        export.verify("text.bin")
    with pytest.raises(ExportMissingError, match="is damaged"):
        export.verify("image.bin")  # the manifest does not name it


def test_the_export_of_another_model_is_refused(exports: Exports) -> None:
    publish(exports, fingerprint="ffffffffffff")
    with pytest.raises(ExportMissingError, match="is that of the model ffffffffffff"):
        exports.find(MODEL)


def test_an_interrupted_export_leaves_the_previous_one_and_no_files(exports: Exports, tmp_path: Path) -> None:
    publish(exports)
    before = files(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupt(exports)
    assert files(tmp_path) == before
    assert exports.find(MODEL).file("text.bin").read_text() == "weights"


def test_what_a_killed_export_left_is_removed_by_the_next_one(exports: Exports, tmp_path: Path) -> None:
    left, long_ago, *others = (
        tmp_path / "exports" / f".{name}"
        for name in (
            f"{MODEL}-{FORMAT}.{_machine()}.abc",
            f"{MODEL}-{FORMAT}.01234567.old",
            f"{MODEL}-{FORMAT}.01234567.new",  # another machine may be writing it
            "another-1.abc",
        )
    )
    for each in (left, long_ago, *others):
        (each / "made").mkdir(parents=True)
        (each / "made" / "text.bin").write_text("half")
    os.utime(long_ago, (0, 0))
    publish(exports)
    assert [each for each in (left, long_ago, *others) if each.exists()] == others
    assert exports.find(MODEL).file("text.bin").read_text() == "weights"


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (MemoryError(), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (OSError(errno.EIO, "text.xml could not be written: basic_ios::clear: iostream error"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("unknown operation"), False),
    ],
)
def test_a_full_disk_is_no_failure_of_the_model(error: Exception, passing: bool) -> None:
    """Regression: the model was not exported again when there was space."""
    assert is_passing(error) == passing


def test_a_failure_is_kept_until_the_libraries_change(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(exports)
    exports.record_failure(MODEL, "unknown operation")
    with pytest.raises(ExportMissingError, match="its export failed: unknown operation") as failed:
        exports.find(MODEL)
    assert not failed.value.retry
    monkeypatch.setattr("viewfinder.models.exports.made_by", lambda: "openvino 2")
    assert exports.find(MODEL).manifest.fingerprint == MODEL, "machines that share it can use it"


def test_an_export_ends_the_failure(exports: Exports) -> None:
    with exports.alone(MODEL):
        exports.record_failure(MODEL, "unknown operation")
    publish(exports)
    assert exports.find(MODEL).manifest.fingerprint == MODEL


def test_one_process_exports_a_model_at_a_time(exports: Exports) -> None:
    with exports.alone(MODEL) as first, exports.alone(MODEL, wait=False) as second:
        assert (first, second) == (True, False)
    with exports.alone(MODEL, wait=False) as third:
        assert third


def test_a_directory_that_cannot_be_written_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert Exports(tmp_path).writable(1000) is None
    assert "cannot be written" in str(Exports(tmp_path / "file").writable(1000))
    assert "MB free" in str(Exports(tmp_path).writable(2**60))


def test_a_directory_that_cannot_be_entered_is_a_reason(forbidden: Path) -> None:
    with pytest.raises(ExportMissingError, match="Permission denied"):
        Exports(forbidden / "exports").find(MODEL)
