"""What `viewfinder doctor` looks at: one `Check` for each thing that a first run needs, none of which is changed.

It must work where things do not: heavy packages are imported inside the checks that need them, and a check that
cannot be made says so.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from viewfinder.client import Client
from viewfinder.engine import INSTALL_ALL
from viewfinder.errors import ConfigurationError, ObjectError, ServiceError, ServiceUnavailableError, ViewfinderError
from viewfinder.registry import find
from viewfinder.settings import Settings

State = Literal["ok", "note", "failed", "skipped"]

LEAST_FREE_BYTES = 1024**3
_CONNECT_TIMEOUT_S = 2.0
_SERVICE_TIMEOUT_S = 5.0
# "qdrant-client>=1.18; extra == 'all'", "ray[data,serve]>=2.60; extra == 'all'"
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[\w,-]*\])?(>=(?P<least>[\d.]+))?(; extra == ['\"](?P<extra>\w+)['\"])?"
)


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do about it. `note`: works, but worth knowing."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(source: str | None = None) -> list[Check]:
    """All checks, in the order in which they would stop a first run; `source` adds one that reads there."""
    checks = [_python(), *_packages()]
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        return [*checks, Check("settings", "failed", str(error), "Correct or unset these variables.")]
    looks: list[tuple[str, Callable[[], Check]]] = [
        ("settings", lambda: _settings(settings)),
        ("data directory", lambda: _data_dir(settings)),
        ("Qdrant", lambda: _qdrant(settings)),
        ("model", lambda: _model(settings)),
        ("GPU", lambda: _gpu(settings)),
        (f"port {settings.port}", lambda: _port(settings)),
    ]
    if "server" in settings.model_fields_set:
        looks.append(("service", lambda: _service("service", settings.server)))
    if source is not None:
        looks.append(("source", lambda: _source(settings, source)))
    return checks + [_looked(name, look) for name, look in looks]


def _looked(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except ModuleNotFoundError as error:
        return Check(name, "skipped", f"{error.name} is not installed", INSTALL_ALL)
    except ViewfinderError as error:
        return Check(name, "failed", str(error))


def _python() -> Check:
    # An older one could not even have loaded this module.
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Check]:
    """The packages of the client, then those that jobs, service and local mode need besides."""
    try:
        required = importlib.metadata.requires("viewfinder") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "note", "viewfinder runs without being installed", "make setup")
        return
    for extra, name, state in ((None, "client packages", "failed"), ("all", "all packages", "note")):
        found, missing = [], []
        for match in map(_REQUIREMENT.match, required):
            if match is None or match["extra"] != extra:
                continue
            version = _version(match["name"])
            least = match["least"] or "0"
            if version is None or _numbers(version) < _numbers(least):
                missing.append(f"{match['name']}>={least}" + (f" (there is {version})" if version else ""))
            else:
                found.append(f"{match['name']} {version}")
        if missing:
            what = "" if extra is None else "; without them there are only client and command line"
            yield Check(name, state, f"missing: {', '.join(missing)}{what}", INSTALL_ALL)  # type: ignore[arg-type]
        else:
            yield Check(name, "ok", ", ".join(found))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _settings(settings: Settings) -> Check:
    changed = sorted(settings.model_fields_set)
    return Check("settings", "ok", f"set: {', '.join(changed)}" if changed else "all at their defaults")


def _data_dir(settings: Settings) -> Check:
    directory, advice = settings.data_dir, "Make it writable, or set VIEWFINDER_DATA_DIR."
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        return Check("data directory", "failed", f"{existing} is no directory", advice)
    if existing == directory:
        try:
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            return Check("data directory", "failed", f"{directory} cannot be written: {error.strerror}", advice)
    elif not os.access(existing, os.W_OK | os.X_OK):
        return Check("data directory", "failed", f"{directory} cannot be made in {existing}", advice)
    free = shutil.disk_usage(existing).free
    found = f"{directory}{'' if existing == directory else ' (will be made)'}, {free / 1024**3:,.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        return Check("data directory", "note", found, "Free some space, or set VIEWFINDER_DATA_DIR.")
    return Check("data directory", "ok", found)


def _qdrant(settings: Settings) -> Check:
    from viewfinder.store import StoreAddress, connect

    address = replace(StoreAddress.of(settings), retry_s=0.0, timeout_s=_SERVICE_TIMEOUT_S)
    if address.url is None:
        return _embedded(settings)
    with connect(address) as store:
        version = store.check()
        live = store.live(settings.index)
    serves = f"index {settings.index!r} is {live.name}" if live else f"no index {settings.index!r} yet"
    return Check("Qdrant", "ok", f"{address}, version {version}; {serves}")


def _embedded(settings: Settings) -> Check:
    from viewfinder.directory import Holder, store_directory, try_lock

    directory = store_directory(settings.data_dir)
    if not directory.is_dir():
        return Check("Qdrant", "ok", f"embedded in {directory}, nothing there yet")
    lock = try_lock(directory / "holder.lock")
    if lock is None:
        holder = Holder.read(directory) or "a program that left no name"
        return Check("Qdrant", "ok", f"embedded in {directory}, held by {holder}")
    lock.close()
    return Check("Qdrant", "ok", f"embedded in {directory}, held by nobody")


def _model(settings: Settings) -> Check:
    """Whether the weights lie on this machine, without fetching them."""
    spec = find(settings.model)
    if spec.directory:
        from viewfinder.models import locate

        checkpoint = locate(settings.model)  # reads a directory, downloads nothing
        return Check("model", "ok", f"{checkpoint.name}, {checkpoint.dimension} dimensions, {checkpoint.weights}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(spec.hub, local_files_only=True))
    except LocalEntryNotFoundError:
        weights = None
    else:
        weights = next((path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".bin")), None)
    if weights is None:
        advice = "The first run downloads them; without a network name a local checkpoint directory (VIEWFINDER_MODEL)."
        return Check("model", "note", f"{spec.name}: no weights of {spec.hub} on this machine", advice)
    return Check("model", "ok", f"{spec.name}: {weights}")


def _gpu(settings: Settings) -> Check:
    import torch

    if not torch.cuda.is_available():
        found = f"torch {torch.__version__} sees none; {os.cpu_count()} CPU cores"
        if settings.device == "cuda":
            return Check("GPU", "failed", found, "Unset VIEWFINDER_DEVICE, or install a driver and a torch with CUDA.")
        return Check("GPU", "ok", found)
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Check("GPU", "ok", ", ".join(f"{card.name}, {card.total_memory / 1024**3:.0f} GiB" for card in cards))


def _port(settings: Settings) -> Check:
    name = f"port {settings.port}"
    if settings.port == 0:
        return Check(name, "ok", "the service takes a free one")
    # A service that listens on all addresses is asked on the one that is always there.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    try:
        with closing(socket.create_connection((host, settings.port), timeout=_CONNECT_TIMEOUT_S)):
            pass
    except ConnectionRefusedError:
        return Check(name, "ok", f"free on {host}")
    except OSError as error:
        return Check(name, "failed", f"{host}: {error}", "Correct VIEWFINDER_HOST.")
    check = _service(name, f"http://{f'[{host}]' if ':' in host else host}:{settings.port}")
    return replace(check, advice="End it, or set VIEWFINDER_PORT.") if check.state == "failed" else check


def _service(name: str, server: str) -> Check:
    with Client(server, timeout_s=_SERVICE_TIMEOUT_S, retries=0) as client:
        try:
            stats = client.stats()
        except ServiceUnavailableError as error:
            ours = error.code == "no_index"
            return Check(name, "note" if ours else "failed", error.message, error.hint)
        except ServiceError as error:
            return Check(name, "failed", f"another program answers: {error.message}", error.hint)
    found = f"the service answers: {stats.points:,} points in {stats.collection}"
    return Check(name, "note", f"{found}; {stats.problem}") if stats.problem else Check(name, "ok", found)


def _source(settings: Settings, source: str) -> Check:
    """List, and read one object: credentials often allow the one without the other."""
    from viewfinder.objects import ObjectAccess, Objects, canonical_uri

    uri = canonical_uri(source)
    with Objects(ObjectAccess(settings.s3_endpoint_url, anonymous=settings.s3_anonymous)) as objects:
        objects.check(uri)
        first = next(iter(objects.list(uri)))
        try:
            objects.read(first.uri, max_bytes=max(first.size, 1))
        except ObjectError as error:
            advice = "The credentials need s3:GetObject." if error.reason == "access_denied" else ""
            return Check("source", "failed", f"{uri} can be listed, but not read: {error.message}", advice)
    return Check("source", "ok", f"{uri} can be listed and read")
