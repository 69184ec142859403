"""`viewfinder doctor`: check this machine. Changes nothing, and works without the packages of the extras."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from viewfinder.addresses import is_loopback
from viewfinder.cli import output
from viewfinder.cli.entry import FAILED
from viewfinder.cli.index import check_local_sources
from viewfinder.cli.options import ConfigOption, JsonOption, examples, optional, source_uri
from viewfinder.client import Client
from viewfinder.errors import ConfigurationError, ObjectError, ServiceError, ServiceUnavailableError, ViewfinderError
from viewfinder.extras import install
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.registry import find
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.store.directory import Holder

EPILOG = examples(
    "viewfinder doctor",
    "viewfinder doctor --source s3://bucket/prefix",
    statuses="Exit status: 0 nothing failed, 1 a check failed, 2 wrong usage.",
)

State = Literal["ok", "note", "failed", "skipped"]

MINIMUM_FREE_BYTES = 1024**3
# 20,000 points: 10 kB each, measured with image and caption at 512 dimensions.
LARGE_STORE_BYTES = 200_000_000
# `ray start` writes the address of this machine's cluster here.
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")
_CONNECT_TIMEOUT_S = 2.0
_SERVICE_TIMEOUT_S = 5.0
_NEEDS_KEY = "a viewfinder service answers, but does not accept this API key"
_QDRANT_ADVICE = (
    "Start it: docker run -p 6333:6333 qdrant/qdrant. Or unset VIEWFINDER_QDRANT_URL and use the embedded store."
)
_BUCKET_ADVICE = "Check the name and what the credentials allow (s3:ListBucket, s3:GetObject), and VIEWFINDER_S3_*."
_DIRECTORY_ADVICE = "Check the path. The address of a bucket begins with s3://."
# Extra, name of its check, purpose.
_EXTRAS = (
    (None, "client packages", ""),
    ("local", "local packages", "; needed to index and search on this machine"),
    ("all", "all packages", "; needed for jobs and the service on Ray"),
)


@dataclass(frozen=True)
class _Requirement:
    """A package that viewfinder requires, for an extra or (None) always."""

    name: str
    minimum: str
    extra: str | None

    @classmethod
    def parse(cls, text: str) -> "_Requirement":
        """Parse a line of the package's metadata, as `open-clip-torch<4,>=3.2; extra == 'all'`."""
        package, _, marker = text.partition(";")
        minimum = re.search(r">=\s*([\d.]+)", package)
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        name = re.split(r"[^\w.-]", package.strip(), maxsplit=1)[0]
        return cls(name, minimum[1] if minimum else "0", extra[1] if extra else None)


@dataclass(frozen=True)
class Finding:
    """The result of one check, with advice. The state `note` means that it works, with a remark."""

    name: str
    state: State
    found: str
    advice: str = ""


def doctor_command(
    source: Annotated[
        str | None,
        optional(
            "--source",
            help="Check that this s3:// prefix or directory can be read.",
            metavar="SRC",
            parser=source_uri,
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that this machine is set up.

    Checks packages, settings, store, model, GPU, Ray, port and keys.
    """
    found = examine(source, config=config)
    if as_json:
        output.print_json([asdict(check) for check in found])
    else:
        rows = [[check.name, check.state, _shown(check), check.advice] for check in found]
        output.print_table(["check", "state", "found", "what to do"], rows)
    if any(check.state == "failed" for check in found):
        raise typer.Exit(FAILED)


def _shown(check: Finding) -> str:
    """What is found, for a table: the versions of packages are in the JSON document."""
    if check.state == "ok" and check.name in [name for _, name, _ in _EXTRAS]:
        return f"{check.found.count(',') + 1} packages; versions: --json"
    return check.found


def examine(
    source: str | None = None, *, config: str | None = None, current_cluster: Path = CURRENT_CLUSTER
) -> list[Finding]:
    """Run all checks, in the order in which they would stop a first run. With a `source`, read it too."""
    checks = [_python(), *_packages()]
    try:
        settings = Settings.load(config=config)
    except ConfigurationError as error:
        return [*checks, Finding("settings", "failed", str(error), "Correct or remove these settings.")]
    # Name, check, modules that the check needs, advice if it fails.
    planned: list[tuple[str, Callable[[], Finding], tuple[str, ...], str]] = [
        ("settings", lambda: _settings(settings), (), ""),
        ("data directory", lambda: _data_dir(settings), (), ""),
        ("Qdrant", lambda: _qdrant(settings), ("qdrant_client", "numpy"), _QDRANT_ADVICE),
        ("model", lambda: _model(settings), (), "Set VIEWFINDER_MODEL; 'viewfinder models' lists names."),
        ("GPU", lambda: _gpu(settings), ("torch",), ""),
        ("Ray", lambda: _ray(settings, current_cluster), ("ray",), ""),
        (f"port {settings.port}", lambda: _port(settings), (), ""),
        ("API keys", lambda: _keys(settings), (), ""),
    ]
    if settings.model_fields_set & {"server", "api_key"}:
        planned.append(("service", lambda: _service(settings), (), ""))
    advice = _BUCKET_ADVICE if (source or "").startswith("s3:") else _DIRECTORY_ADVICE
    planned.append(("source", lambda: _source(settings, source), (), advice))
    return checks + [_result(*each) for each in planned]


def _result(name: str, check: Callable[[], Finding], modules: tuple[str, ...], advice: str) -> Finding:
    """Run a check; an error becomes a failed finding with `advice`."""
    if missing := [_package(module) for module in modules if importlib.util.find_spec(module) is None]:
        return _not_installed(name, *missing)
    try:
        return check()
    except ModuleNotFoundError as error:
        return _not_installed(name, _package(str(error.name)))
    except ViewfinderError as error:
        return Finding(name, "failed", str(error), advice)


def _not_installed(name: str, *packages: str) -> Finding:
    extra = "all" if "ray" in packages else "local"
    verb = "is" if len(packages) == 1 else "are"
    return Finding(name, "skipped", f"{' and '.join(packages)} {verb} not installed", install(extra))


def _package(module: str) -> str:
    """The package that provides a module."""
    return {"qdrant_client": "qdrant-client", "open_clip": "open_clip_torch", "PIL": "pillow"}.get(module, module)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Finding]:
    """Check the packages of the client, then those of each extra."""
    try:
        required = [_Requirement.parse(each) for each in importlib.metadata.requires("viewfinder") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "note", "viewfinder runs without being installed", "pip install viewfinder")
        return
    for extra, name, purpose in _EXTRAS:
        packages = [each for each in required if each.extra == extra and each.name != "viewfinder"]
        if extra is not None and not packages:
            continue
        found, missing = [], []
        for each in packages:
            version = _version(each.name)
            if version is None or _numbers(version) < _numbers(each.minimum):
                missing.append(f"{each.name}>={each.minimum}" + (f" (installed: {version})" if version else ""))
            else:
                found.append(f"{each.name} {version}")
        if missing:
            state: State = "failed" if extra is None else "note"
            command = "pip install viewfinder" if extra is None else install(extra)
            yield Finding(name, state, f"missing: {', '.join(missing)}{purpose}", command)
        else:
            yield Finding(name, "ok", ", ".join(found) or "no further packages")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _settings(settings: Settings) -> Finding:
    changed = sorted(settings.model_fields_set)
    return Finding("settings", "ok", f"set: {', '.join(changed)}" if changed else "all at their defaults")


def _data_dir(settings: Settings) -> Finding:
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


def _qdrant(settings: Settings) -> Finding:
    from viewfinder.store import StoreAddress, connect

    address = replace(StoreAddress.of(settings), retry_s=0.0, timeout_s=_SERVICE_TIMEOUT_S)
    if address.url is None:
        return _embedded(settings)
    with connect(address) as store:
        version = store.check()
        live = store.collections.live(settings.index)
    content = f"index {settings.index!r} is {live.name}" if live else f"no index {settings.index!r} yet"
    return Finding("Qdrant", "ok", f"{address}, version {version}; {content}")


def _embedded(settings: Settings) -> Finding:
    from viewfinder.store.directory import LARGE_STORE_ADVICE, store_directory

    directory = store_directory(settings.data_dir)
    if not directory.is_dir():
        return Finding("Qdrant", "ok", f"embedded in {directory}, nothing stored yet")
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    is_held, holder = _holder(settings)
    by = (holder or "an unknown program") if is_held else "no program"
    found = f"embedded in {directory}, {size / 1024**2:,.1f} MiB, held by {by}"
    if size > LARGE_STORE_BYTES:
        return Finding("Qdrant", "note", found, LARGE_STORE_ADVICE)
    return Finding("Qdrant", "ok", found)


def _holder(settings: Settings) -> "tuple[bool, Holder | None]":
    """True if a program holds the embedded store, and that program if it is known."""
    from viewfinder.store.directory import Holder, store_directory, try_lock

    directory = store_directory(settings.data_dir)
    if not directory.is_dir():
        return False, None
    lock = try_lock(directory / "holder.lock")
    if lock is not None:
        lock.close()
        return False, None
    return True, Holder.read(directory)


def _live_model(settings: Settings) -> str | None:
    """The model of the live collection; None without an index, or if the store cannot be asked now."""
    try:
        from viewfinder.store import StoreAddress, connect, open_shared
    except ModuleNotFoundError:
        return None
    address = replace(StoreAddress.of(settings), retry_s=0.0, timeout_s=_SERVICE_TIMEOUT_S)
    if address.url is None:
        is_held, holder = _holder(settings)
        is_shared = not is_held or (holder is not None and holder.answers_here)
        if not is_shared or not (settings.data_dir / "qdrant").is_dir():
            return None
    try:
        with connect(address) if address.url is not None else open_shared(address) as store:
            live = store.collections.live(settings.index)
    except ViewfinderError:
        return None  # the check of Qdrant says why
    return live.metadata.model_name if live else None


def _model(settings: Settings) -> Finding:
    """Look for the weights of the live model, or of the one for a new index, without downloading them."""
    live = _live_model(settings)
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


def _gpu(settings: Settings) -> Finding:
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


def _ray(settings: Settings, current_cluster: Path) -> Finding:
    """Check that something listens at the cluster's address; joining the cluster would take seconds."""
    address = (settings.ray_address or "").removeprefix("ray://")
    advice = "Start the cluster, correct RAY_ADDRESS, or unset it for a Ray on this machine."
    if not address and current_cluster.is_file():
        # `ray start` writes this file, and a crash leaves it behind. `serve run` then retries for minutes.
        address = current_cluster.read_text().strip()
        advice = f"Delete {current_cluster}, which a crashed cluster left behind, or start the cluster again."
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return Finding("Ray", "ok", f"RAY_ADDRESS is {address}" if address else _own_ray(settings))
    if _connection_error(host.strip("[]"), int(port)) is None:
        return Finding("Ray", "ok", f"something listens at {address}")
    return Finding("Ray", "failed", f"nothing listens at {address}", advice)


def _own_ray(settings: Settings) -> str:
    """The Ray that holds the embedded store, if there is one."""
    if settings.qdrant_url is None and importlib.util.find_spec("qdrant_client") is not None:
        _, holder = _holder(settings)
        if holder is not None and holder.ray_address is not None:
            return f"{holder.ray_address} on {holder.host}, which holds the embedded store"
    return "not running on this machine; started when needed"


def _port(settings: Settings) -> Finding:
    name = f"port {settings.port}"
    if settings.port == 0:
        return Finding(name, "ok", "the service takes a free one")
    # A service that listens on all addresses is reached through the loopback address.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    match _connection_error(host, settings.port):
        case None:
            # Without the API key, since another program may own the port.
            address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
            check = _ask(name, Client(address, timeout_s=_SERVICE_TIMEOUT_S, retries=0))
            if check.found == _NEEDS_KEY:
                return Finding(name, "ok", check.found)
            return replace(check, advice="Stop it, or set VIEWFINDER_PORT.") if check.state == "failed" else check
        case ConnectionRefusedError():
            return Finding(name, "ok", f"free on {host}")
        case error:
            return Finding(name, "failed", f"{host}: {error}", "Correct VIEWFINDER_HOST.")


def _connection_error(host: str, port: int) -> OSError | None:
    """Try to connect; return the error, or None on success."""
    try:
        with closing(socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S)):
            return None
    except OSError as error:
        return error


def _keys(settings: Settings) -> Finding:
    """Report which clients a service with these settings answers."""
    if settings.api_keys:
        admins = sum(key.get_secret_value().endswith(":admin") for key in settings.api_keys)
        return Finding("API keys", "ok", f"{len(settings.api_keys)}, of which {admins} allow takedowns")
    if settings.allow_anonymous:
        found = f"none: every client that reaches {settings.host} may search"
        return Finding("API keys", "note", found, "'viewfinder key' makes one for VIEWFINDER_API_KEYS.")
    if is_loopback(settings.host):
        return Finding("API keys", "ok", "none: the service answers only this machine")
    advice = "Set VIEWFINDER_API_KEYS ('viewfinder key' makes one), or VIEWFINDER_ALLOW_ANONYMOUS=1."
    return Finding(
        "API keys", "note", f"none: the service listens on {settings.host}, but answers only this machine", advice
    )


def _service(settings: Settings) -> Finding:
    """Query the service that the client and the command line use, with their key."""
    check = _ask("service", Client.of(settings, timeout_s=_SERVICE_TIMEOUT_S, retries=0))
    return replace(check, found=f"{settings.service_url}: {check.found}")


def _ask(name: str, client: Client) -> Finding:
    with client:
        try:
            stats = client.stats()
        except ServiceUnavailableError as error:
            no_index = error.code == "no_index"
            return Finding(name, "note" if no_index else "failed", error.message, error.hint)
        except ServiceError as error:
            if error.code == "unauthorized":
                return Finding(name, "failed", _NEEDS_KEY, "Set VIEWFINDER_API_KEY to a key of this service.")
            return Finding(name, "failed", f"another program answers: {error.message}", error.hint)
    found = f"the service answers: {stats.points:,} points in {stats.collection}"
    return Finding(name, "note", f"{found}; {stats.behind}") if stats.behind else Finding(name, "ok", found)


def _source(settings: Settings, source: str | None) -> Finding:
    """List the source and read one object: credentials often allow only one of the two."""
    if source is None:
        return Finding("source", "skipped", "no source was given", "viewfinder doctor --source s3://bucket/prefix")
    from viewfinder.sources.access import ObjectAccess
    from viewfinder.sources.objects import Objects
    from viewfinder.sources.uris import canonical_uri

    check_local_sources([source])
    uri = canonical_uri(source)
    with Objects(ObjectAccess.of(settings)) as objects:
        objects.check(uri)
        first = next(iter(objects.list(uri)))
        try:
            objects.read(first.uri, max_bytes=max(first.size, 1))
        except ObjectError as error:
            advice = "The credentials need s3:GetObject." if error.reason == "access_denied" else ""
            return Finding("source", "failed", f"{uri} can be listed, but not read: {error.message}", advice)
    return Finding("source", "ok", f"{uri} can be listed and read")
