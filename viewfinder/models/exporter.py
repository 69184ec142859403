"""Exports a model for OpenVINO, in a process of its own: torch and open_clip stay out of the one that encodes.

The child imports torch, needs three times the memory of the weights, and ends with its export published, or with the
reason for which it failed recorded (`viewfinder.models.exports`).
"""

import errno
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from viewfinder.arrays import Vectors
from viewfinder.errors import ViewfinderError
from viewfinder.images.decoding import Preprocess
from viewfinder.memory import available_memory
from viewfinder.models import probes
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.devices import choose_precision
from viewfinder.models.exports import (
    IMAGE,
    PROBES,
    TEXT,
    TOKENIZER,
    Export,
    ExportMissingError,
    Exports,
    Manifest,
    made_by,
    sha256,
)
from viewfinder.models.hugging_face_tokenizer import TokenizerDefinition
from viewfinder.models.open_clip_internals import TextTower, attend_without_transposing
from viewfinder.models.openvino_runtime import OpenVinoRuntime, import_openvino
from viewfinder.models.text_length import TextLength
from viewfinder.models.tokenizer import Tokenizer
from viewfinder.models.torch_runtime import load_model, logits_of, normalized
from viewfinder.priority import lower_session_priority

logger = logging.getLogger(__name__)

# The search path is the parent's.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from viewfinder.models.exporter import main; main(sys.argv[1])"
# torch's weights, their copies in the converter and in OpenVINO; and what the libraries take.
_MEMORY_FACTOR, _MEMORY_BYTES = 4, 1024**3
_SIZE_FACTOR, _SIZE_BYTES = 2.2, 20_000_000
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
_OUT_OF_MEMORY = re.compile("allocate memory|bad_alloc|out of memory", re.IGNORECASE)
_BEHIND = 19  # niceness
_ANY = -1  # size of a dimension


def prepare(checkpoint: Checkpoint) -> Export:
    """Return the export of a model that is on this machine, made now if there is none that OpenVINO can use.

    Raises `ViewfinderError` with the reason if the model cannot be exported.
    """
    exports = Exports.of_this_machine()
    try:
        if (found := _usable(exports, checkpoint.fingerprint)) is not None:
            return found
    except ExportMissingError as error:
        raise ViewfinderError(f"Model {checkpoint.name!r} does not run on OpenVINO: {error}.") from error
    if (reason := exports.writable(_size(checkpoint))) is None:
        exports.forget_failure(checkpoint.fingerprint)
        ended = subprocess.run(_command(checkpoint, background=False), stdin=subprocess.DEVNULL, check=False)
        try:
            return exports.find(checkpoint.fingerprint)
        except ExportMissingError as error:
            reason = str(error) if ended.returncode == 0 else f"{error} (exit status {ended.returncode})"
    raise ViewfinderError(f"Model {checkpoint.name!r} cannot be exported for OpenVINO: {reason}.")


def start(checkpoint: Checkpoint) -> str | None:
    """Begin to export a model at the lowest priority, and return None, or the reason for which it cannot begin.

    The child outlives this process, which may end before it.
    """
    if (reason := Exports.of_this_machine().writable(_size(checkpoint))) is not None:
        return reason
    needed, available = checkpoint.weights.stat().st_size * _MEMORY_FACTOR + _MEMORY_BYTES, available_memory()
    if available is not None and available < needed:
        return f"exporting takes {needed / 1024**3:.1f} GiB of memory, and {available / 1024**3:.1f} GiB are free"
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # The child forks at once, so that init reaps the one that exports.
    subprocess.run(_command(checkpoint, background=True), start_new_session=True, check=False, **silent)  # type: ignore[call-overload]
    return None


def _size(checkpoint: Checkpoint) -> int:
    """Return an upper bound of the size of an export: float32, of weights that may be float16."""
    return round(checkpoint.weights.stat().st_size * _SIZE_FACTOR) + _SIZE_BYTES


def _command(checkpoint: Checkpoint, *, background: bool) -> list[str]:
    job = {
        "name": checkpoint.name,
        "fingerprint": checkpoint.fingerprint,
        "revisions": dict(checkpoint.revisions),
        "background": background,
    }
    return [sys.executable, "-c", _BOOT, json.dumps(job), *sys.path]


def main(argument: str) -> None:
    """Run the child."""
    job = json.loads(argument)
    if job["background"]:
        if os.fork():
            os._exit(0)
        lower_session_priority(_BEHIND)
    exports = Exports.of_this_machine()
    with exports.alone(job["fingerprint"], wait=not job["background"]) as alone:
        if not alone:
            return
        try:
            if _usable(exports, job["fingerprint"]):  # another process has made it meanwhile
                return
        except ExportMissingError as error:
            raise SystemExit(str(error)) from error
        try:
            checkpoint = locate(job["name"], expect=job["fingerprint"], revisions=job["revisions"])
            _export(checkpoint, exports)
        except ViewfinderError as error:
            raise SystemExit(str(error)) from error


def _usable(exports: Exports, fingerprint: str) -> Export | None:
    """Return the export of a model, or None if there is none that OpenVINO reads; another version of it may not.

    Raises `ExportMissingError` if another export would not help: OpenVINO is missing, or computes other vectors here.
    """
    try:
        found = exports.find(fingerprint)
    except ExportMissingError:
        return None
    try:
        OpenVinoRuntime(found, "float32").load("text", "image")
        if TOKENIZER in found.manifest.files:
            found.verify(TOKENIZER)
    except OSError:  # another one may be readable
        return None
    except ExportMissingError as error:
        if error.retry:
            return None
        raise
    return found


def _export(checkpoint: Checkpoint, exports: Exports) -> None:
    try:
        with exports.publish(checkpoint.fingerprint) as directory:
            write_export(checkpoint, directory)
    except ViewfinderError:  # of the files at that moment
        raise
    # The converter and the tracer of torch raise any error for an operation that they do not know.
    except Exception as error:
        if is_passing(error):
            raise SystemExit(f"Model {checkpoint.name!r} was not exported: {error}") from error
        first = str(error).strip().partition("\n")[0]
        with suppress(ExportMissingError):
            if not _usable(exports, checkpoint.fingerprint):  # another machine may have published one
                exports.record_failure(checkpoint.fingerprint, f"{type(error).__name__}: {first[:300]}")


def is_passing(error: Exception) -> bool:
    """Return True for an error of the machine at that moment, not of the model: the next process tries again."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def write_export(checkpoint: Checkpoint, directory: Path) -> Manifest:
    """Write the files of an export; raise whatever prevents it, and `ExportMissingError` if its vectors differ."""
    model: Any = load_model(checkpoint).eval().requires_grad_(False)
    checkpoint.verify()  # after loading: the file may have been replaced meanwhile
    definition = _save_tokenizer(checkpoint, directory)
    tokenizer = Tokenizer(checkpoint.tokenizer, definition)
    tokens, _ = tokenizer(list(probes.TEXTS))
    pixels = probes.images(checkpoint.preprocess.size)
    texts, images = _features(model, checkpoint, tokens, pixels)  # first: what follows changes the model
    np.savez(directory / PROBES, tokens=tokens, texts=texts, images=images, size=checkpoint.preprocess.size)
    scale, bias = logits_of(model)
    _convert_images(model, checkpoint.preprocess, directory)
    attend_without_transposing(TextTower(model).tower.transformer)
    text_length = _convert_text(model, tokenizer, directory)
    del model
    precision = choose_precision("auto", "cpu")
    files = {path.name: sha256(path) for path in sorted(directory.iterdir())}
    manifest = Manifest(
        checkpoint.fingerprint, checkpoint.weights_digest, made_by(), scale, bias, text_length, precision, 0.0, files
    )
    cosine = _cosine(OpenVinoRuntime(Export(directory, manifest), precision), tokens, texts, pixels, images)
    if not cosine >= probes.SAME_COSINE:  # `not >=`, because NaN compares false
        raise ExportMissingError(f"the vectors of torch and of OpenVINO in {precision} have the cosine {cosine:.5f}")
    manifest = replace(manifest, cosine=cosine)
    manifest.save(directory)
    return manifest


def _save_tokenizer(checkpoint: Checkpoint, directory: Path) -> TokenizerDefinition | None:
    if checkpoint.tokenizer.kind == "bpe":
        return None
    definition = TokenizerDefinition.read(checkpoint.tokenizer.directory, checkpoint.tokenizer.options)
    definition.save(directory / TOKENIZER)
    return definition


def _features(model: Any, checkpoint: Checkpoint, tokens: Any, pixels: Any) -> tuple[Vectors, Vectors]:
    """Return what open_clip itself computes."""
    import torch

    with torch.inference_mode():
        texts = model.encode_text(torch.from_numpy(tokens)).float().numpy()
        images = model.encode_image(normalized(torch.from_numpy(pixels), checkpoint.preprocess)).float().numpy()
    return texts, images


def _cosine(runtime: OpenVinoRuntime, tokens: Any, texts: Vectors, pixels: Any, images: Vectors) -> float:
    """Return the lowest cosine, of probes encoded alone and together: other sizes than those of the example."""
    found = [
        probes.lowest_cosine(runtime.encode_tokens(tokens), texts),
        probes.lowest_cosine(runtime.encode_images(pixels), images),
        *(probes.lowest_cosine(runtime.encode_tokens(tokens[[row]]), texts[[row]]) for row in range(len(tokens))),
        *(probes.lowest_cosine(runtime.encode_images(pixels[[row]]), images[[row]]) for row in range(len(pixels))),
    ]
    return float(np.min(found))  # NaN if any is


def text_module(model: Any) -> tuple[TextLength, Any]:
    """Return the rule of the text tower, and a module of token ids [N, L] and, if the rule has them, their ends [N]."""
    import torch

    tower = TextTower(model)

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor, ends: torch.Tensor | None = None) -> torch.Tensor:
            return tower(tokens, ends)

    # torch's fused operation for whole layers cannot be traced with other sizes.
    torch.backends.mha.set_fastpath_enabled(False)
    return tower.length, Text()


def _image_module(model: Any, preprocess: Preprocess) -> Any:
    import torch

    class Image(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = model.encode_image(normalized(images, preprocess))
            return features

    torch.backends.mha.set_fastpath_enabled(False)
    return Image()


def _convert_text(model: Any, tokenizer: Tokenizer, directory: Path) -> TextLength:
    """Write the text tower for any number of texts, and of tokens if it need not read all; return the rule of these."""
    import torch

    length, module = text_module(model)
    tokens, _ = tokenizer(["two dogs", "a red car"])
    read = np.ascontiguousarray(length.cut(tokens))
    inputs = {"tokens": torch.from_numpy(read)}
    shapes = {"tokens": [_ANY, read.shape[1] if length.kind == "all" else _ANY]}
    if length.has_ends:
        inputs["ends"] = torch.from_numpy(length.ends(read))
        shapes["ends"] = [_ANY]
    _save(module, inputs, shapes, directory / TEXT)
    return length


def _convert_images(model: Any, preprocess: Preprocess, directory: Path) -> None:
    """Write the image tower for any number of images."""
    import torch

    inputs = {"images": torch.from_numpy(probes.images(preprocess.size)[:2])}
    shapes = {"images": [_ANY, preprocess.size, preprocess.size, 3]}
    _save(_image_module(model, preprocess), inputs, shapes, directory / IMAGE)


def _save(module: Any, inputs: dict[str, Any], shapes: dict[str, list[int]], path: Path) -> None:
    import torch

    openvino = import_openvino()
    # Not traced by the converter: it would run the module three times more to check the trace, and vectors show more.
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing is deprecated, and warns of each value that it takes for a constant; the converter knows no other way.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, example_kwarg_inputs=inputs, strict=False, check_trace=False
        )
        sizes = {name: openvino.PartialShape(shape) for name, shape in shapes.items()}
        model = openvino.convert_model(traced, example_input=inputs, input=sizes)
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # OpenVINO writes the file itself and does not say why it could not
        raise OSError(errno.EIO, f"{path.name} could not be written: {error}") from error
