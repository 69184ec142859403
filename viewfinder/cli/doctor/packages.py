"""Checks of the installed packages."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from viewfinder.cli.doctor.finding import Finding, State
from viewfinder.extras import install

# Extra, name of its check, purpose.
EXTRAS = (
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


def packages() -> Iterator[Finding]:
    """Check the packages of the client, then those of each extra."""
    try:
        required = [_Requirement.parse(each) for each in importlib.metadata.requires("viewfinder") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "note", "viewfinder runs without being installed", "pip install viewfinder")
        return
    for extra, name, purpose in EXTRAS:
        packages = [each for each in required if each.extra == extra and each.name != "viewfinder"]
        if extra is not None and not packages:
            continue
        found, missing = [], []
        for each in packages:
            version = _version(each.name)
            if version is None or _version_numbers(version) < _version_numbers(each.minimum):
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


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def package_of(module: str) -> str:
    """The package that provides a module."""
    return {"qdrant_client": "qdrant-client", "open_clip": "open_clip_torch", "PIL": "pillow"}.get(module, module)


def not_installed(name: str, *packages: str) -> Finding:
    extra = "all" if "ray" in packages else "local"
    verb = "is" if len(packages) == 1 else "are"
    return Finding(name, "skipped", f"{' and '.join(packages)} {verb} not installed", install(extra))
