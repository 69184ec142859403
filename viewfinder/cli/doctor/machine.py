"""Checks of this machine: directory, model, GPU."""

import os
import platform
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from viewfinder.cli.doctor.finding import Finding
from viewfinder.cli.doctor.store import live_model
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.registry import find
from viewfinder.settings import Settings

MINIMUM_FREE_BYTES = 1024**3


def python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def settings_given(settings: Settings) -> Finding:
    changed = sorted(settings.model_fields_set)
    return Finding("settings", "ok", f"set: {', '.join(changed)}" if changed else "all at their defaults")


def data_directory(settings: Settings) -> Finding:
    directory, advice = settings.data_dir, "Make it writable, or set VIEWFINDER_DATA_DIR."
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        return Finding("data directory", "failed", f"{existing} is not a directory", advice)
    if existing == directory:
        try:
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            return Finding("data directory", "failed", f"{directory} is not writable: {error.strerror}", advice)
    elif not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data directory", "failed", f"{directory} cannot be created in {existing}", advice)
    free = shutil.disk_usage(existing).free
    found = f"{directory}{'' if existing == directory else ' (will be created)'}, {free / 1024**3:,.1f} GiB free"
    if free < MINIMUM_FREE_BYTES:
        return Finding("data directory", "note", found, "Free some space, or set VIEWFINDER_DATA_DIR.")
    return Finding("data directory", "ok", found)


def model(settings: Settings) -> Finding:
    """Look for the weights of the live model, or of the one for a new index, without downloading them."""
    live = live_model(settings)
    check = _weights(live or settings.model)
    if live is None:
        return check
    given = "model" in settings.model_fields_set and settings.model != live
    differs = f"; VIEWFINDER_MODEL is {settings.model}, to which a re-index would change" if given else ""
    return replace(check, found=f"of index {settings.index!r}: {check.found}{differs}")


def _weights(name: str) -> Finding:
    spec = find(name)
    if spec.directory:
        from viewfinder.models.checkpoint import locate

        checkpoint = locate(name)  # reads a directory, downloads nothing
        return Finding("model", "ok", f"{checkpoint.name}, {checkpoint.dimension} dimensions, {checkpoint.weights}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(spec.hub, local_files_only=True))
    except LocalEntryNotFoundError:
        weights = None
    else:
        weights = next((path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".bin")), None)
    if weights is None:
        advice = (
            "The first run downloads them. Without a network, set VIEWFINDER_MODEL to a local checkpoint directory."
        )
        return Finding("model", "note", f"{spec.name}: no weights of {spec.hub} on this machine", advice)
    return Finding("model", "ok", f"{spec.name}: {weights}")


def gpu(settings: Settings) -> Finding:
    import torch

    if not torch.cuda.is_available():
        found = f"torch {torch.__version__} finds none; {cpu_cores()} CPU cores"
        if settings.device == "cuda":
            return Finding(
                "GPU", "failed", found, "Unset VIEWFINDER_DEVICE, or install a driver and a torch with CUDA."
            )
        if shutil.which("nvidia-smi"):
            advice = "Run nvidia-smi. Its CUDA version must be at least the one that torch was built for."
            return Finding("GPU", "note", f"{found}, although NVIDIA's driver is installed", advice)
        return Finding("GPU", "ok", found)
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(f"{card.name}, {card.total_memory / 1024**3:.0f} GiB" for card in cards))
