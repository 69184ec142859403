"""The runtime of CPUs: the exported towers on OpenVINO. Imports neither torch nor open_clip."""

import functools
import logging
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.models import probes
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.exports import PROBES, Export, ExportMissingError
from viewfinder.models.runtime import TOWERS, TowerName
from viewfinder.models.text_length import TextLength

logger = logging.getLogger(__name__)

_IMPORTING = threading.Lock()
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def import_openvino() -> Any:
    """Return the module; raise `ModuleNotFoundError` where it is not installed.

    Importing or using its converter sends statistics to Google Analytics through `openvino_telemetry`, if that can be
    imported. Hiding it is the only way that also works before a user's consent is stored.
    """
    with _IMPORTING:
        if "openvino" not in sys.modules:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        return openvino


def supports(precision: str) -> bool:
    """Return True if OpenVINO computes in this number format on CPUs."""
    return precision in _PRECISIONS


class OpenVinoRuntime:
    """Both towers of an export, on the CPU. At most `calls` calls of a tower run at once, each with `threads` threads.

    A tower is loaded when it is first used, or by `load`. It has threads of its own, so that texts do not wait for
    images. Loading and calls raise `ExportMissingError` if a file is damaged, if OpenVINO cannot read the tower, or if
    its vectors differ from torch's, and `OSError` if a file cannot be read now.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, export: Export, precision: str, *, threads: int | None = None, calls: int = 1) -> None:
        """Raises `ExportMissingError` if OpenVINO is not installed or does not start."""
        self.precision = precision
        self.logit_scale, self.logit_bias = export.manifest.logit_scale, export.manifest.logit_bias
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": calls,
            "INFERENCE_NUM_THREADS": (threads or cpu_cores()) * calls,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            # Processes that pin their threads choose the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = import_openvino().Core()
        except ModuleNotFoundError as error:
            raise ExportMissingError(f"{error.name} is not installed", retry=False) from error
        except RuntimeError as error:
            raise ExportMissingError(f"OpenVINO does not start ({_first_line(error)})", retry=False) from error
        compile_model = functools.partial(core.compile_model, device_name="CPU", config=options)
        # Without a reference to this object: in a cycle a model that is dropped would stay in memory.
        inputs: dict[TowerName, Callable[[NDArray[Any]], dict[str, NDArray[Any]]]]
        inputs = {"text": functools.partial(_text_inputs, export.manifest.text_length), "image": _image_inputs}
        self._towers = {name: _Tower(export, name, precision, compile_model, inputs[name]) for name in TOWERS}

    @property
    def is_complete(self) -> bool:
        """See `Runtime`."""
        return all(tower.is_loaded for tower in self._towers.values())

    def load(self, *names: TowerName) -> None:
        """Load these towers, at the same time: OpenVINO compiles one on one core."""
        with ThreadPoolExecutor(len(TOWERS)) as loading:
            list(loading.map(lambda name: self._towers[name].load(), names))

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        """See `Runtime`."""
        return self._towers["image"](images)

    def encode_tokens(self, tokens: NDArray[np.int64]) -> Vectors:
        """See `Runtime`."""
        return self._towers["text"](tokens)


def _text_inputs(text_length: TextLength, tokens: NDArray[Any]) -> dict[str, NDArray[Any]]:
    read = np.ascontiguousarray(text_length.cut(tokens))
    ends = {"ends": text_length.ends(read)} if text_length.has_ends else {}
    return {"tokens": read, **ends}


def _image_inputs(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"images": np.ascontiguousarray(images)}


class _Tower:
    """A tower, compiled when it is first used. Threads may share it."""

    def __init__(
        self,
        export: Export,
        name: TowerName,
        precision: str,
        compile_model: Callable[[Path], Any],
        inputs: Callable[[NDArray[Any]], dict[str, NDArray[Any]]],
    ) -> None:
        self._export = export
        self._name: TowerName = name
        self._precision = precision
        self._compile_model = compile_model
        self._inputs = inputs
        self._loading = threading.Lock()
        self._compiled: _Compiled | None = None

    @property
    def is_loaded(self) -> bool:
        return self._compiled is not None

    def __call__(self, items: NDArray[Any]) -> Vectors:
        return (self._compiled or self.load())(self._inputs(items))

    def load(self) -> "_Compiled":
        """Compile the tower and compute one of its probes, unless that has been done."""
        with self._loading:
            if self._compiled is None:
                compiled = _Compiled(self._compile())
                self._check(compiled)
                self._compiled = compiled
            return self._compiled

    def _compile(self) -> Any:
        files = (f"{self._name}.xml", f"{self._name}.bin", PROBES)
        problems: list[BaseException] = []
        # Not in a pool, which starts no threads while the program ends.
        reading = threading.Thread(target=_verify, args=(self._export, files, problems), name="verify-export")
        reading.start()
        try:
            compiled = self._compile_model(self._export.file(files[0]))
        except RuntimeError as error:
            reading.join()
            # Popped: this frame and the error would keep each other, and the model, in memory.
            raise problems.pop() if problems else self._unusable(error) from error
        reading.join()
        if problems:
            raise problems.pop()
        return compiled

    def _check(self, compiled: "_Compiled") -> None:
        # An export may come from another kind of processor, and so from another number format.
        try:
            with np.load(self._export.file(PROBES)) as probe:
                is_text = self._name == "text"
                items = probe["tokens"][:1] if is_text else probes.images(int(probe["size"]))[:1]
                expected = probe["texts"][:1] if is_text else probe["images"][:1]
            cosine = probes.lowest_cosine(compiled(self._inputs(items)), expected)
        except (RuntimeError, KeyError, ValueError) as error:
            raise self._unusable(error) from error
        if not cosine >= probes.SAME_COSINE:  # `not >=`, because NaN compares false
            reason = f"its {self._name} vectors differ from torch's in {self._precision}: cosine {cosine:.5f}"
            raise ExportMissingError(reason, retry=False)

    def _unusable(self, error: Exception) -> ExportMissingError:
        return ExportMissingError(f"OpenVINO cannot use its export in {self._export.directory} ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _verify(export: Export, names: Sequence[str], problems: list[BaseException]) -> None:
    try:
        export.verify(*names)
    except BaseException as error:
        problems.append(error)
    finally:
        del problems  # which the error's frames would keep


class _Compiled:
    """A compiled model with its idle requests, for several threads."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> Vectors:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._model.create_infer_request()
        try:
            # The inputs are read where they are; the output belongs to the request, which another thread takes next.
            features: Vectors = request.infer(inputs, share_inputs=True)[0].copy()
            return features
        finally:
            self._idle.put(request)
