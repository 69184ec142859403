"""The device and the number format of an encoder. torch is imported only where there may be a GPU."""

import sys
from pathlib import Path
from typing import Literal

from viewfinder.errors import ConfigurationError
from viewfinder.models.cpu import multiplies_bfloat16

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

# Files that a driver makes: NVIDIA's, that of Jetson boards, WSL's and AMD's.
_GPU_FILES = ("nvidiactl", "nvidia0", "nvmap", "dxg", "kfd")
DEVICE_FILES = Path("/dev")


def may_have_gpu() -> bool:
    """Return False where torch cannot find a GPU: `import torch` takes seconds."""
    return sys.platform != "linux" or any((DEVICE_FILES / name).exists() for name in _GPU_FILES)


def choose_device(device: Device) -> str:
    """Return the device to use: for "auto" the first that there is, CUDA, MPS or the CPU.

    Raises `ConfigurationError` if this machine lacks the device.
    """
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in present.items() if available)
    if not present[device]:
        has = ", ".join(repr(name) for name, available in present.items() if available)
        raise ConfigurationError(
            f"The device {device!r} is not available: torch {torch.__version__} finds only {has} on this machine. "
            "Choose one of these or 'auto' (VIEWFINDER_DEVICE)."
        )
    return device


def choose_precision(precision: Precision, device: str) -> str:
    """Return the number format: for "auto" bfloat16 where the device computes in it, else the next best."""
    if precision != "auto":
        return precision
    if device == "cpu":
        return "bfloat16" if multiplies_bfloat16() else "float32"
    if device != "cuda":
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
