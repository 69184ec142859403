"""ViT-B-32 in OpenAI's architecture with random weights, which do not change its speed."""

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import NoFigureError
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.devices import Precision, choose_precision
from viewfinder.models.encoder import Encoder
from viewfinder.models.exporter import write_export
from viewfinder.models.exports import Export
from viewfinder.models.openvino_runtime import OpenVinoRuntime

ARCHITECTURE = "ViT-B-32-quickgelu"
_TINY = {"vision_cfg": {"width": 64, "layers": 1, "head_width": 32}, "text_cfg": {"width": 64, "heads": 2, "layers": 1}}


def model_name(quick: bool) -> str:
    """A description of the model."""
    return "a tiny random model" if quick else "ViT-B-32 (quickgelu, random weights)"


@functools.cache
def vit_checkpoint(quick: bool) -> Checkpoint:
    """The checkpoint (600 MB; tiny in a quick run), made once per run and deleted at its end."""
    import open_clip

    from viewfinder.testing.models import random_checkpoint

    architecture: dict[str, Any] = open_clip.get_model_config(ARCHITECTURE)
    if quick:
        for tower, sizes in _TINY.items():
            architecture[tower] |= sizes
    print(f"making {model_name(quick)}", file=sys.stderr, flush=True)
    return locate(str(random_checkpoint(scratch() / ARCHITECTURE, architecture)))


def exported(quick: bool, *, threads: int, precision: Precision = "auto") -> Encoder:
    """Our encoder of this checkpoint on OpenVINO, as a replica has it; the export is made once per run."""
    runtime = OpenVinoRuntime(_export(quick), choose_precision(precision, "cpu"), threads=threads)
    return Encoder(vit_checkpoint(quick), runtime)


@functools.cache
def _export(quick: bool) -> Export:
    directory = scratch() / f"export-{quick}"
    directory.mkdir()
    return Export(directory, write_export(vit_checkpoint(quick), directory))


def need_cuda() -> None:
    """Raise `NoFigureError` if torch finds no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise NoFigureError("needs a CUDA device, and torch sees none on this machine")


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Run with `count` CPU threads (None: torch's default); yield the number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@functools.cache
def _directory() -> "tempfile.TemporaryDirectory[str]":
    # The cache keeps it until the program ends.
    return tempfile.TemporaryDirectory(prefix="viewfinder-bench-", ignore_cleanup_errors=True)


def scratch() -> Path:
    """A directory that is deleted when the program ends."""
    return Path(_directory().name)
