"""Encoding of images and texts to unit vectors, with one checkpoint on one device."""

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from viewfinder.arrays import Vectors
from viewfinder.errors import ConfigurationError, ViewfinderError
from viewfinder.images.decoding import Preprocess
from viewfinder.models import exporter
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.devices import Device, Precision, choose_device, choose_precision, may_have_gpu
from viewfinder.models.exports import TOKENIZER, Export, ExportMissingError, Exports
from viewfinder.models.hugging_face_tokenizer import TokenizerDefinition
from viewfinder.models.openvino_runtime import OpenVinoRuntime, supports
from viewfinder.models.runtime import TOWERS, Runtime, RuntimeName, TowerName
from viewfinder.models.tokenizer import Tokenizer
from viewfinder.models.torch_runtime import TorchRuntime

logger = logging.getLogger(__name__)


class Encoder:
    """Both towers of a model. Create one with `Encoder.load` in the process that uses it; threads may share it.

    If a tower that was not loaded at first cannot be used, `whole` is called, and both towers are those of the encoder
    that it returns.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: Runtime,
        definition: TokenizerDefinition | None = None,
        whole: "Callable[[], Encoder] | None" = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.runtime = runtime
        self._tokenizer = Tokenizer(checkpoint.tokenizer, definition)
        self._whole = whole
        self._replacing = threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        device: Device = "auto",
        precision: Precision = "auto",
        runtime: RuntimeName = "auto",
        threads: int | None = None,
        calls: int = 1,
        export: bool = False,
        towers: Sequence[TowerName] = TOWERS,
    ) -> Self:
        """Load the model: with "auto" on OpenVINO on a CPU if it has been exported, else on torch.

        `threads` is the number of CPU threads of one call (None: one for each core), `calls` that of calls at the same
        time. With `export`, a model without an export is exported in the background for those who load it later. Of an
        export only `towers` are loaded now, another one when it is first used. If its files are damaged, or this
        machine computes other vectors, the model is then loaded again as a whole.
        Raises `UnknownModelError` if the weights do not fit the configuration, `ModelMismatchError` if torch would load
        others than those of the fingerprint, `ConfigurationError` if this machine lacks the device, and with "openvino"
        `ViewfinderError` if the model cannot be exported or used there.
        """
        chosen = choose_device(device)
        numbers = choose_precision(precision, chosen)
        if chosen == "cpu" and runtime == "openvino" and not supports(numbers):
            raise ConfigurationError(
                f"OpenVINO does not compute in {numbers}. Set VIEWFINDER_PRECISION to 'auto', 'float32' or 'bfloat16', "
                "or VIEWFINDER_RUNTIME to 'auto'."
            )
        missing: ExportMissingError | None = None
        if chosen == "cpu" and runtime != "torch" and supports(numbers):
            whole = functools.partial(
                cls.load, checkpoint, device=device, precision=precision, runtime=runtime, threads=threads, calls=calls,
                export=export,
            )  # fmt: skip
            load = functools.partial(
                cls._exported, checkpoint, precision=numbers, threads=threads, calls=calls, towers=towers, whole=whole
            )
            try:
                return load(Exports.of_this_machine().find(checkpoint.fingerprint))
            except ExportMissingError as error:
                # Without the frames of the error, which have this one and what was loaded.
                missing = ExportMissingError(str(error), retry=error.retry)
            if runtime == "openvino":
                try:
                    return load(exporter.prepare(checkpoint))
                except ExportMissingError as error:
                    raise ViewfinderError(
                        f"Model {checkpoint.name!r} does not run on OpenVINO: {error}. Set VIEWFINDER_RUNTIME to "
                        "'auto'."
                    ) from error
        checkpoint.verify()
        if missing is not None:
            _use_torch(checkpoint, missing, export=export)
        loaded = TorchRuntime.load(checkpoint, chosen, numbers, threads)
        logger.info("loaded %s (%s) on %s as %s", checkpoint.name, checkpoint.fingerprint, chosen, numbers)
        return cls(checkpoint, loaded)

    @classmethod
    def _exported(
        cls,
        checkpoint: Checkpoint,
        export: Export,
        *,
        precision: str,
        threads: int | None,
        calls: int,
        towers: Sequence[TowerName],
        whole: "Callable[[], Encoder]",
    ) -> Self:
        try:
            runtime = OpenVinoRuntime(export, precision, threads=threads, calls=calls)
            with ThreadPoolExecutor(1) as making:
                made = making.submit(lambda: cls(checkpoint, runtime, _definition(checkpoint, export), whole))
                try:
                    runtime.load(*towers)
                    encoder = made.result()
                finally:
                    del made  # which keeps an error of it, and its frames
        except OSError as error:
            raise ExportMissingError(f"its export in {export.directory} cannot be read ({error})") from error
        logger.info("loaded %s (%s) on OpenVINO as %s", checkpoint.name, checkpoint.fingerprint, precision)
        return encoder

    @property
    def is_complete(self) -> bool:
        """False while a tower is not loaded."""
        return self.runtime.is_complete

    @property
    def device(self) -> str:
        return self.runtime.device

    @property
    def precision(self) -> str:
        return self.runtime.precision

    @property
    def logit_scale(self) -> float:
        """The model's own logits are logit_scale * cosine + logit_bias."""
        return self.runtime.logit_scale

    @property
    def logit_bias(self) -> float:
        return self.runtime.logit_bias

    @property
    def fingerprint(self) -> str:
        return self.checkpoint.fingerprint

    @property
    def dimension(self) -> int:
        return self.checkpoint.dimension

    @property
    def preprocess(self) -> Preprocess:
        return self.checkpoint.preprocess

    @property
    def context_length(self) -> int:
        return self.checkpoint.tokenizer.context_length

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        """Return unit vectors float32 [N, dimension] of images uint8 [N, size, size, 3] prepared by `preprocess`."""
        size = self.preprocess.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be uint8 [N, {size}, {size}, 3], not {images.dtype} {list(images.shape)}")
        if not len(images):
            return np.empty((0, self.dimension), np.float32)
        return self._compute(lambda runtime: runtime.encode_images(images))

    def encode_texts(self, texts: list[str]) -> tuple[Vectors, NDArray[np.int64]]:
        """Return unit vectors float32 [N, dimension], and the number of tokens truncated from each text."""
        if not texts:
            return np.empty((0, self.dimension), np.float32), np.empty(0, np.int64)
        tokens, truncated = self._tokenizer(texts)
        return self._compute(lambda runtime: runtime.encode_tokens(tokens)), np.array(truncated, np.int64)

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return the number of tokens the model reads of each text, start and end tokens included."""
        return [min(length, self.context_length) for length in self._tokenizer.lengths(texts)]

    def _compute(self, features: Callable[[Runtime], Vectors]) -> Vectors:
        used = self.runtime
        try:
            return _unit_vectors(features(used))
        except ExportMissingError as error:
            if self._whole is None:
                raise
            logger.warning("Model %s is loaded again: %s", self.checkpoint.name, str(error))
        with self._replacing:
            if self.runtime is used:
                self.runtime = self._whole().runtime
        return _unit_vectors(features(self.runtime))


def loads_exports(device: Device, precision: Precision, runtime: RuntimeName) -> bool:
    """Return True if `Encoder.load` with these options loads the export of a model that has one. Imports no torch."""
    on_cpu = device == "cpu" or (device == "auto" and not may_have_gpu())
    return on_cpu and runtime != "torch" and supports(choose_precision(precision, "cpu"))


def _use_torch(checkpoint: Checkpoint, reason: ExportMissingError, *, export: bool) -> None:
    """Begin to export the model if that can help, and log why torch is used."""
    outcome = ""
    if export and reason.retry:
        problem = exporter.start(checkpoint)
        outcome = "; exporting it in the background" if problem is None else f"; it cannot be exported: {problem}"
    logger.info("model %s runs on torch, not on OpenVINO: %s%s", checkpoint.name, reason, outcome)


def _definition(checkpoint: Checkpoint, export: Export) -> TokenizerDefinition | None:
    """Return the tokenizer as transformers made it, which imports torch."""
    if checkpoint.tokenizer.kind == "bpe":
        return None
    export.verify(TOKENIZER)
    return TokenizerDefinition.load(export.file(TOKENIZER))


def _unit_vectors(features: Vectors) -> Vectors:
    # As torch.nn.functional.normalize, which limits the length.
    vectors: Vectors = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return vectors
