"""Checks of this machine: directory, model, GPU."""

import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace

from viewfinder.cli.doctor.finding import Finding
from viewfinder.cli.doctor.store import live_metadata
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.devices import may_have_gpu
from viewfinder.models.registry import canonical_name, find
from viewfinder.settings import Settings

MINIMUM_FREE_BYTES = 1024**3


def python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def settings_given(settings: Settings) -> Finding:
    changed = sorted(settings.model_fields_set)
    return Finding("settings", "ok", f"set: {', '.join(changed)}" if changed else "all at their defaults")


def data_directory(settings: Settings) -> Finding:
    directory, advice = settings.data_dir, "Make it writable, or set VIEWFINDER_DATA_DIR."
    try:
        existing = next(path for path in (directory, *directory.parents) if path.exists())
    except OSError as error:
        return Finding("data directory", "failed", f"{directory} cannot be reached: {error.strerror}", advice)
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
    live = live_metadata(settings)
    if live is None:
        return _weights(settings.model, {})
    check = _weights(live.model_name, live.revisions)
    given = "model" in settings.model_fields_set and canonical_name(settings.model) != live.model_name
    differs = f"; VIEWFINDER_MODEL is {settings.model}, to which a re-index would change" if given else ""
    return replace(check, found=f"of index {settings.index!r}: {check.found}{differs}")


def _weights(name: str, revisions: Mapping[str, str]) -> Finding:
    from viewfinder.models.checkpoint import cached_weights, locate

    spec = find(name)
    if spec.directory:
        checkpoint = locate(name)  # reads a directory, downloads nothing
        return Finding("model", "ok", f"{checkpoint.name}, {checkpoint.dimension} dimensions, {checkpoint.weights}")
    weights = cached_weights(spec, revisions)
    if weights is None:
        advice = (
            "The first run downloads them. Without a network, set VIEWFINDER_MODEL to a local checkpoint directory."
        )
        return Finding("model", "note", f"{spec.name}: no weights of {spec.hub} on this machine", advice)
    return Finding("model", "ok", f"{spec.name}: {weights}")


def gpu(settings: Settings) -> Finding:
    found = f"none; {cpu_cores()} CPU cores"
    if settings.device == "cuda" or may_have_gpu():
        import torch

        if torch.cuda.is_available():
            cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
            names = [f"{card.name}, {card.total_memory / 1024**3:.0f} GiB" for card in cards]
            return Finding("GPU", "ok", ", ".join(names))
        found = f"torch {torch.__version__} finds {found}"
    if settings.device == "cuda":
        return Finding("GPU", "failed", found, "Unset VIEWFINDER_DEVICE, or install a driver and a torch with CUDA.")
    if shutil.which("nvidia-smi"):
        advice = "Run nvidia-smi. Its CUDA version must be at least the one that torch was built for."
        return Finding("GPU", "note", f"{found}, although NVIDIA's driver is installed", advice)
    return Finding("GPU", "ok", found)
