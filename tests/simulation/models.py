"""A fake decoder and a fake encoder. The content of a photo is a kind and a number: `good 0017 \\0`."""

import atexit
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.numpy

from viewfinder.arrays import Vectors
from viewfinder.errors import ImageError
from viewfinder.images.decoding import Decoded
from viewfinder.indexing.encode import Encode
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.indexing.fetch import FetchAndDecode
from viewfinder.indexing.pools import CallerPool
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.registry import CONFIG_NAME
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess

SIZE = 2
DIMENSION = 4
MODELS = ("first", "second")
_NOT_FINITE = 40_000  # added to the number of a photo whose vector is not finite


_held: dict[str, int] = {}  # the directories that this process uses, open with a shared lock


def model_directory(name: str) -> str:
    """Return the directory of a checkpoint of this name; only its fingerprint matters.

    The same for all processes, because collections are named after it; the first one makes it, the last one removes it.
    """
    directory = Path(tempfile.gettempdir()) / f"viewfinder-simulation-{name}"
    while name not in _held:
        if not directory.exists():
            _make_model(directory, MODELS.index(name))
        with suppress(FileNotFoundError):  # another process has removed it
            opened = os.open(directory, os.O_RDONLY)
            fcntl.flock(opened, fcntl.LOCK_SH)
            if directory.exists() and os.path.samestat(os.fstat(opened), directory.stat()):
                _held[name] = opened
            else:
                os.close(opened)
    return str(directory)


@atexit.register
def release_models() -> None:
    """Remove the directories of models that no other process uses."""
    while _held:
        name, opened = _held.popitem()
        with suppress(BlockingIOError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(Path(tempfile.gettempdir()) / f"viewfinder-simulation-{name}", ignore_errors=True)
        os.close(opened)


def _make_model(directory: Path, weight: int) -> None:
    made = Path(tempfile.mkdtemp())
    safetensors.numpy.save_file({"weights": np.array([weight], np.float32)}, made / "open_clip_model.safetensors")
    config = {"embed_dim": DIMENSION, "vision_cfg": {"image_size": SIZE}, "text_cfg": {"context_length": 77}}
    (made / CONFIG_NAME).write_text(json.dumps({"model_cfg": config}))
    try:
        made.rename(directory)
    except OSError:  # another process was faster
        shutil.rmtree(made)


def image_vector(model: str, number: int) -> Vectors:
    """Return the vector (float32 [4]) of the photo with this number."""
    return _vectors(model, [number])[0]


def text_vector(model: str, text: str) -> Vectors:
    """Return the vector (float32 [4]) of a caption."""
    return _vectors(model, [int(hashlib.sha256(text.encode()).hexdigest()[:3], 16)])[0]


def _vectors(model: str, numbers: list[int]) -> Vectors:
    shift = len(model)
    rows = np.sin(np.outer(np.array(numbers, np.float64) + shift, [1.0, 2.3, 3.7, 5.9]))
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    unit[np.array(numbers) >= _NOT_FINITE] = np.nan
    return unit


class _Encoder:
    device = "cpu"
    preprocess = SimpleNamespace(size=SIZE)

    def __init__(self, model: str) -> None:
        self._model = model.rpartition("-")[2]

    def encode_images(self, images: Any) -> Vectors:
        return _vectors(self._model, [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in images])

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, Any]:
        vectors = [text_vector(self._model, text) for text in texts]
        return np.stack(vectors), np.zeros(len(texts), np.int64)


class Decoder:
    """Decodes in this process. `version` 2 reads HEIC; on a bad node some good photos crash it.

    The width of an image is its number, so that a point tells from which content it was made.
    """

    def __init__(self, version: int, *, bad_node: bool) -> None:
        self._version = version
        self._bad_node = bad_node

    def decode(self, data: bytes) -> Decoded:
        kind, number = data.split()[0].decode(), int(data.split()[1])
        if kind == "heic" and self._version == 1:
            raise ImageError("unsupported", "HEIC")
        if kind == "good" and self._bad_node and number % 2:
            raise ImageError("decoder_crashed", "crashed")
        if kind not in ("good", "heic", "nan"):
            raise ImageError("corrupt", "damaged")
        pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
        pixels[0, 0, :2] = divmod(number + (_NOT_FINITE if kind == "nan" else 0), 256)
        return Decoded(pixels, number, SIZE, "JPEG")


class SimulatedExecutor(InProcessExecutor):
    """The stages in the thread of the caller, with the fake decoder and encoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(cores=1, pool=lambda size: CallerPool())
        self._decoder = decoder

    def _fetch(self, checkpoint: Checkpoint, settings: Settings, access: ObjectAccess) -> FetchAndDecode:
        return FetchAndDecode.of(settings, access, checkpoint, decoder=self._borrow)

    @contextmanager
    def _borrow(self) -> Iterator[Any]:
        yield self._decoder

    def _encode(self, checkpoint: Checkpoint, settings: Settings) -> Encode:
        encode = super()._encode(checkpoint, settings)
        encode._load = lambda: _Encoder(checkpoint.name)
        return encode
