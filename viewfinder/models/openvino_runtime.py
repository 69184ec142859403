"""The runtime of CPUs: the exported towers on OpenVINO. Imports neither torch nor open_clip."""

import logging
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.models import probes
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.exports import IMAGE, PROBES, TEXT, Export, ExportMissingError

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

    A tower has threads of its own, so that texts do not wait for images.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, export: Export, precision: str, *, threads: int | None = None, calls: int = 1) -> None:
        """Load an export and compute one probe of each kind.

        Raises `ExportMissingError` if OpenVINO is not installed, cannot read it, or if the vectors differ from torch's.
        """
        self.precision = precision
        self.logit_scale, self.logit_bias = export.manifest.logit_scale, export.manifest.logit_bias
        self._text_length = export.manifest.text_length
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
            # Both at once: OpenVINO compiles a tower on one core.
            with ThreadPoolExecutor(2) as compiling:
                self._text, self._image = compiling.map(
                    lambda name: _Tower(core.compile_model(export.file(name), "CPU", options)), (TEXT, IMAGE)
                )
            self._check(export)
        except ModuleNotFoundError as error:
            raise ExportMissingError(f"{error.name} is not installed", retry=False) from error
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ExportMissingError(f"OpenVINO cannot use its export in {export.directory} ({first[:200]})") from error

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        """See `Runtime`."""
        return self._image({"images": np.ascontiguousarray(images)})

    def encode_tokens(self, tokens: NDArray[np.int64]) -> Vectors:
        """See `Runtime`."""
        read = np.ascontiguousarray(self._text_length.cut(tokens))
        ends = {"ends": self._text_length.ends(read)} if self._text_length.has_ends else {}
        return self._text({"tokens": read, **ends})

    def _check(self, export: Export) -> None:
        # An export may come from another kind of processor, and so from another number format.
        with np.load(export.file(PROBES)) as expected:
            size = int(expected["size"])
            text = probes.lowest_cosine(self.encode_tokens(expected["tokens"][:1]), expected["texts"][:1])
            image = probes.lowest_cosine(self.encode_images(probes.images(size)[:1]), expected["images"][:1])
        if not min(text, image) >= probes.SAME_COSINE:  # `not >=`, because NaN compares false
            reason = (
                f"its vectors differ from torch's in {self.precision}: cosine {text:.5f} (text), {image:.5f} (image)"
            )
            raise ExportMissingError(reason, retry=False)


class _Tower:
    """A compiled tower, for several threads."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> Vectors:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            # The inputs are read where they are; the output belongs to the request, which another thread takes next.
            features: Vectors = request.infer(inputs, share_inputs=True)[0].copy()
            return features
        finally:
            self._idle.put(request)
