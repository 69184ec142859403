"""Exported models on this machine's disk: where they lie, how one is published, and which are usable.

    HF_HOME/viewfinder/FINGERPRINT-FORMAT/     text.xml text.bin image.xml image.bin   the towers, for OpenVINO
                                               probes.npz                              vectors that torch made
                                               tokenizer.json                          of a Hugging Face tokenizer
                                               manifest.json                           `Manifest`
                       FINGERPRINT-FORMAT.failed.json    why the model could not be exported

`exporter.py` writes them, `openvino_runtime.py` reads them; neither torch nor open_clip is needed to read.
"""

import contextlib
import fcntl
import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from viewfinder.models.text_length import TextLength

# Raise it when exports are made in another way: the earlier ones are then ignored.
FORMAT = 2
TEXT, IMAGE, PROBES, TOKENIZER = "text.xml", "image.xml", "probes.npz", "tokenizer.json"
_MANIFEST = "manifest.json"
_LEFT_S = 24 * 3600.0


class ExportMissingError(Exception):
    """Raised without a usable export, with the reason. `retry` is False if another attempt would fail too."""

    def __init__(self, reason: str, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Manifest:
    """The properties of an export. `cosine` is the lowest to torch's vectors of the probes when it was made."""

    fingerprint: str
    weights: str  # SHA-256 of the checkpoint's file
    made_by: str  # versions of the libraries
    logit_scale: float
    logit_bias: float
    text_length: TextLength
    precision: str  # of the check
    cosine: float
    files: Mapping[str, str]  # SHA-256 by name

    def save(self, directory: Path) -> None:
        (directory / _MANIFEST).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises `OSError`, `TypeError`, `KeyError` or `ValueError` if it cannot be read."""
        values: dict[str, Any] = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        return cls(**{**values, "text_length": TextLength(**values["text_length"])})


@dataclass(frozen=True, slots=True)
class Export:
    """An export with all its files. Whoever reads one of them calls `verify` with its name."""

    directory: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        return self.directory / name

    def verify(self, *names: str) -> None:
        """Raise `ExportMissingError` if one of these files is not the one that was written; without names, of all.

        Raises `OSError` for one that is there and cannot be read.
        """
        for name in names or self.manifest.files:
            try:
                changed = sha256(self.file(name)) != self.manifest.files[name]
            except (FileNotFoundError, KeyError, TypeError) as error:
                raise ExportMissingError(f"its export in {self.directory} is damaged ({error})") from error
            if changed:
                raise ExportMissingError(f"its export in {self.directory} is damaged ({name} has changed)")


class Exports:
    """The exports below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of_this_machine(cls) -> Self:
        """Beside the Hugging Face cache (HF_HOME), which an image or a volume holds for all machines of a cluster."""
        from huggingface_hub import constants

        return cls(Path(constants.HF_HOME) / "viewfinder")

    def find(self, fingerprint: str) -> Export:
        """Return the export of a model; raise `ExportMissingError` if there is none, or if files are missing."""
        directory = self._directory / _name(fingerprint)
        if (failure := self._failure(fingerprint)) is not None:
            raise ExportMissingError(f"its export failed: {failure}", retry=False)
        try:
            if not directory.exists():
                raise ExportMissingError("it has not been exported on this machine")
            manifest = Manifest.load(directory)
            missing = [name for name in manifest.files if not (directory / name).is_file()]
        except (OSError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise ExportMissingError(f"its export in {directory} is damaged ({error})") from error
        if manifest.fingerprint != fingerprint:
            raise ExportMissingError(f"its export in {directory} is that of the model {manifest.fingerprint}")
        if missing:
            raise ExportMissingError(f"its export in {directory} is damaged ({missing[0]} is missing)")
        return Export(directory, manifest)

    def weights(self, fingerprint: str) -> str | None:
        """Return the SHA-256 of the weights that were exported; None without a readable export."""
        try:
            return Manifest.load(self._directory / _name(fingerprint)).weights
        except (OSError, TypeError, KeyError, ValueError, AttributeError):
            return None

    @contextlib.contextmanager
    def alone(self, fingerprint: str, *, wait: bool = True) -> Iterator[bool]:
        """Yield True while no other process of this machine exports this model, else False, or wait for its end.

        Raises `OSError` if the directory cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / f".{_name(fingerprint)}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    @contextlib.contextmanager
    def publish(self, fingerprint: str) -> Iterator[Path]:
        """Yield an empty directory; it takes the place of the model's export at the end, unless there is an error.

        Call it within `alone`: it removes what killed processes of this machine have left, and what those of others
        have left for a day. Others may be exporting: on some shared disks a lock holds for one machine alone.
        """
        name, here = f".{_name(fingerprint)}.", f"{_machine()}."
        for left in self._directory.glob(f"{name}*/"):
            with contextlib.suppress(OSError):  # another machine has just removed its own
                if left.name.startswith(name + here) or time.time() - left.stat().st_mtime > _LEFT_S:
                    shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=name + here, dir=self._directory) as folder:
            made = Path(folder) / "made"
            made.mkdir()
            yield made
            directory = self._directory / _name(fingerprint)
            if directory.exists():
                directory.rename(Path(folder) / "previous")
            made.rename(directory)
            self.forget_failure(fingerprint)

    def record_failure(self, fingerprint: str, reason: str) -> None:
        """Keep the reason, so that later processes do not try again, until the libraries change."""
        path = self._failed(fingerprint)
        path.write_text(json.dumps({"reason": reason, "made_by": made_by()}), encoding="utf-8")

    def forget_failure(self, fingerprint: str) -> None:
        """Let the next process try again."""
        self._failed(fingerprint).unlink(missing_ok=True)

    def writable(self, size: int) -> str | None:
        """Return None, or the reason for which no export of so many bytes can be written."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory):
                free = shutil.disk_usage(self._directory).free
        except OSError as error:
            return f"{self._directory} cannot be written ({error.strerror})"
        if free < size:
            return f"an export takes {size / 1e6:,.0f} MB on disk, and {self._directory} has {free / 1e6:,.0f} MB free"
        return None

    def _failed(self, fingerprint: str) -> Path:
        return self._directory / f"{_name(fingerprint)}.failed.json"

    def _failure(self, fingerprint: str) -> str | None:
        try:
            record = json.loads(self._failed(fingerprint).read_text(encoding="utf-8"))
            return str(record["reason"]) if record["made_by"] == made_by() else None
        except (OSError, TypeError, KeyError, ValueError):
            return None


def made_by() -> str:
    """Return the versions that decide whether an export succeeds."""
    found = []
    for package in ("viewfinder", "openvino", "open_clip_torch", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _name(fingerprint: str) -> str:
    return f"{fingerprint}-{FORMAT}"
