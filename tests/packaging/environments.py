"""Virtual environments outside the clone that hold the built wheel."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
# uv's error if no package index answers.
NO_INDEX = ("error sending request", "dns error", "tcp connect error", "network connectivity is disabled")


class Environment:
    """A virtual environment, and commands in it that see neither the clone nor this process's variables."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=False)
        self.directory = directory
        self.data_dir = directory / "data"
        (self.site_packages,) = (directory / "lib").glob("python*/site-packages")

    def install(self, *arguments: str) -> None:
        """Install with uv, dependencies in the lock's versions."""
        command = [*_uv(), "pip", "install", "--quiet", "--python", str(self.directory / "bin/python")]
        done = subprocess.run(
            [*command, "--constraint", str(LOCK), *arguments], capture_output=True, text=True, timeout=1500
        )
        if done.returncode and any(sign in done.stderr.lower() for sign in NO_INDEX):
            pytest.skip("no package index can be reached: the wheel's dependencies cannot be installed")
        assert done.returncode == 0, done.stderr

    def link(self, requirements: Iterable[str], extras: Iterable[str]) -> None:
        """Link what `requirements` need, and nothing else, from the environment that runs the tests."""
        for distribution in _closure(requirements, extras):
            for name in {
                file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")
            }:
                target = self.site_packages / name
                if not target.exists():
                    target.symlink_to(Path(str(distribution.locate_file(name))))

    def run(self, *command: str, timeout_s: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment from a directory outside the clone."""
        environment = {
            "PATH": f"{self.directory / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.directory),
            "VIEWFINDER_DATA_DIR": str(self.data_dir),
            "VIEWFINDER_MODEL": "demo",
            **variables,
        }
        program = str(self.directory / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def output(self, *command: str, timeout_s: float = 120, **variables: str) -> str:
        """The standard output of a command that must succeed."""
        done = self.run(*command, timeout_s=timeout_s, **variables)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def has(self, module: str) -> bool:
        code = f"import importlib.util; print(importlib.util.find_spec({module!r}) is not None)"
        return self.output("python", "-c", code).strip() == "True"


def _uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv", path=os.environ.get("PATH"))
    if found is None:
        pytest.skip("pip install uv: it makes the environments")
    return [found]


def _closure(requirements: Iterable[str], extras: Iterable[str]) -> Iterator[metadata.Distribution]:
    """The distributions that `requirements` with `extras` need, each once, as installed here."""
    seen: set[tuple[str, str]] = set()
    given: set[str] = set()
    waiting = [(Requirement(each), extra) for each in requirements for extra in ("", *extras)]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        distribution = metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        if name not in given:
            given.add(name)
            yield distribution
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(each), wanted) for each in distribution.requires or ()]
