"""OpenVINO and ONNX Runtime called directly on the towers of a checkpoint, with one thread."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.vit import scratch, vit_checkpoint
from viewfinder.arrays import Vectors
from viewfinder.models.exporter import text_module
from viewfinder.models.openvino_runtime import import_openvino
from viewfinder.models.torch_runtime import load_model

Arrays = Mapping[str, NDArray[Any]]
Call = Callable[[Arrays], Vectors]

THREADS = 1


def text_calls(quick: bool, tokens: NDArray[np.int64]) -> tuple[Arrays, dict[str, Call]]:
    """Return the inputs for token ids [N, context_length], cut to those that matter, and each library's call."""
    import torch

    length, module = text_module(_model(quick))
    read = np.ascontiguousarray(length.cut(tokens))
    inputs = {"tokens": read, "ends": length.ends(read)}
    example = {name: torch.from_numpy(np.concatenate([array, array])) for name, array in inputs.items()}
    axes = {"tokens": {0: "texts", 1: "length"}, "ends": {0: "texts"}}
    return inputs, _calls(module, example, axes, scratch() / f"text-{quick}")


def image_calls(quick: bool) -> dict[str, Call]:
    """Return each library's call for pixels float32 [N, 3, S, S] that are normalized already."""
    import torch

    model = _model(quick)

    class Image(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = model.encode_image(pixels)
            return features

    size = vit_checkpoint(quick).preprocess.size
    example, axes = {"pixels": torch.rand(2, 3, size, size)}, {"pixels": {0: "images"}}
    return _calls(Image(), example, axes, scratch() / f"image-{quick}")


def _model(quick: bool) -> Any:
    return load_model(vit_checkpoint(quick)).eval().requires_grad_(False)


def _calls(module: Any, example: dict[str, Any], axes: dict[str, dict[int, str]], path: Path) -> dict[str, Call]:
    found = {"OpenVINO": _openvino(module, example, axes)}
    try:
        found["ONNX Runtime"] = _onnx_runtime(module, example, axes, path.with_suffix(".onnx"))
    except ModuleNotFoundError as error:
        print(f"without ONNX Runtime: {error.name} is not installed")
    return found


def _openvino(module: Any, example: dict[str, Any], axes: dict[str, dict[int, str]]) -> Call:
    openvino = import_openvino()
    shapes = {
        name: openvino.PartialShape([-1 if axis in axes[name] else size for axis, size in enumerate(array.shape)])
        for name, array in example.items()
    }
    with _traced():
        model = openvino.convert_model(module, example_input=example, input=shapes)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def call(inputs: Arrays) -> Vectors:
        features: Vectors = request.infer(inputs, share_inputs=True)[0].copy()
        return features

    return call


def _onnx_runtime(module: Any, example: dict[str, Any], axes: dict[str, dict[int, str]], path: Path) -> Call:
    import onnx  # noqa: F401 - what torch needs to write the file
    import onnxruntime
    import torch

    with _traced():
        torch.onnx.export(
            module,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=["features"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(inputs: Arrays) -> Vectors:
        features: Vectors = session.run(None, dict(inputs))[0]
        return features

    return call


@contextmanager
def _traced() -> Iterator[None]:
    """Without gradients, and without warnings of the tracer."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
