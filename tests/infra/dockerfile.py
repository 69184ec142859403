"""Reads infra/Dockerfile, and replays it in directories, without a container engine."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.infra.manifests import INFRA, ROOT

DOCKERFILE = INFRA / "Dockerfile"
IGNORED = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
# Mounts and processes of a command end with it, also if it is killed.
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Instruction:
    """One instruction: continued lines are joined, flags such as `--from=build` stand apart."""

    name: str
    value: str
    flags: Mapping[str, str]


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile. Heredocs and other shells are not supported."""
    joined = re.sub(r"\\\n(\s*#.*\n)*", " ", text)
    found = []
    for line in filter(None, (line.strip() for line in joined.splitlines() if not line.startswith("#"))):
        name, _, value = line.partition(" ")
        flags = {}
        while match := re.match(r"\s*--([a-z-]+)=(\S+)\s+", value):
            flags[match[1]] = match[2]
            value = value[match.end() :]
        found.append(Instruction(name.upper(), value.strip(), flags))
    return found


def sent(name: str) -> bool:
    """Return True if .dockerignore sends a path to the builder: the last pattern that matches decides."""
    kept = True
    for line in IGNORED:
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch.fnmatch(name, pattern) or name.startswith(f"{pattern}/")):
            kept = line.startswith("!")
    return kept


@dataclass
class Image:
    """A root directory, and how programs are started in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0:0"
    directory: str = "/"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        read_only: bool = False,
        offline: bool = False,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root.

        Args:
            command: The program and its arguments.
            environment: Variables beside those of the image.
            mounts: Path in the root to the file or directory of this machine that is bound there.
            read_only: Allow writes in mounts only.
            offline: Give it a loopback interface and no other.
            timeout: Seconds.
        """
        root = str(self.root)
        steps = []
        if read_only:
            steps += [["mount", "--bind", root, root], ["mount", "--options", "remount,bind,ro", root]]
        steps += [["mount", "--rbind", f"/{name}", f"{root}/{name}"] for name in ("dev", "sys")]
        steps += [
            ["mount", "--types", kind, kind, root + at] for kind, at in (("proc", "/proc"), ("tmpfs", "/dev/shm"))
        ]
        steps += [["mount", "--bind", str(source), root + at] for at, source in (mounts or {}).items()]
        if offline:
            steps += [["ip", "link", "set", "lo", "up"]]
        variables = [f"{name}={value}" for name, value in {**self.environment, **(environment or {})}.items()]
        enter = ["chroot", f"--userspec={self.user}", "--groups=", root, "env", "-i", f"--chdir={self.directory}"]
        script = "\n".join(shlex.join(step) for step in [*steps, ["exec", *enter, *variables, *command]])
        return subprocess.run(
            [*NAMESPACES, *(["--net"] if offline else []), "sh", "-euc", script],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )


@dataclass
class Replay:
    """Replays a Dockerfile: each stage is a directory. Stages share files by hard links.

    Args:
        directory: Where the roots are made.
        base: The root that stands for the base image.
        arguments: Build arguments.
        environment: Additional variables of RUN instructions, which say how this machine reaches package indexes.
        mounts: Path in the root to a file or directory of this machine, in RUN instructions.
        caches: Directory of this machine for a cache mount.
    """

    directory: Path
    base: Path
    arguments: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    caches: Mapping[str, Path] = field(default_factory=dict)
    stages: dict[str, Image] = field(default_factory=dict)

    def image(self) -> Image:
        """The last stage."""
        outside: dict[str, str] = {}
        scope, stage = outside, Image(self.base)
        for each in parse(DOCKERFILE.read_text()):
            variables = {**scope, **stage.environment}
            match each.name:
                case "FROM":
                    scope, stage = {}, self._start(substituted(each.value, outside))
                case "ARG":
                    name, _, default = each.value.partition("=")
                    scope[name] = self.arguments.get(name, substituted(shlex.split(default or "''")[0], variables))
                case "ENV":
                    words = [substituted(word, variables) for word in shlex.split(each.value)]
                    stage.environment |= dict(word.split("=", 1) for word in words)
                case "WORKDIR":
                    stage.directory = substituted(each.value, variables)
                    (stage.root / stage.directory[1:]).mkdir(parents=True, exist_ok=True)
                case "USER":
                    stage.user = substituted(each.value, variables)
                case "COPY":
                    self._copy(stage, each, variables)
                case "RUN":
                    self._run(stage, each, scope)
                case "CMD":
                    stage.command = json.loads(each.value)
                case "HEALTHCHECK":
                    stage.health = json.loads(each.value.partition("CMD")[2])
                case "EXPOSE":
                    pass
                case name:
                    raise NotImplementedError(f"{name}: not replayed")
        return stage

    def _start(self, value: str) -> Image:
        source, _, name = value.partition(" AS ")
        name = name or "image"
        root = self.directory / name
        if source in self.stages:
            before = self.stages[source]
            linked(before.root, root)
            stage = Image(root, dict(before.environment), before.user, before.directory)
        else:
            subprocess.run(["cp", "--archive", self.base, root], check=True)
            stage = Image(root)
        self.stages[name] = stage
        return stage

    def _copy(self, stage: Image, each: Instruction, variables: Mapping[str, str]) -> None:
        *sources, target = [substituted(word, variables) for word in shlex.split(each.value)]
        there = stage.root / str(Path(stage.directory, target))[1:]
        for source in sources:
            assert "from" in each.flags or sent(source), source
            if "from" in each.flags:
                linked(self.stages[each.flags["from"]].root / source[1:], there)
            elif (ROOT / source).is_dir():
                # Patterns such as **/*.pyc.
                names = [line.removeprefix("**/") for line in IGNORED if line.startswith("**/")]
                shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns(*names), dirs_exist_ok=True)
            else:
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, there / source if target.endswith("/") else there)
        if owner := each.flags.get("chown"):
            subprocess.run(["chown", "--recursive", substituted(owner, variables), there], check=True)

    def _run(self, stage: Image, each: Instruction, scope: Mapping[str, str]) -> None:
        mounts = dict(self.mounts)
        if mount := each.flags.get("mount"):
            (cache,) = re.findall(r"^type=cache,target=(/\S+)$", mount)
            mounts[cache] = self.caches[cache]
        for at, source in mounts.items():
            place = stage.root / at[1:]
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir() if source.is_dir() else place.touch()
        environment = {"HOME": "/root", **self.environment, **scope}
        done = stage.run(["/bin/sh", "-c", each.value], environment=environment, mounts=mounts, timeout=2400)
        assert done.returncode == 0, f"RUN {each.value}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """A word with the values of its `$NAME` and `${NAME}`. Raises KeyError for a name without value."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables[match[1] or match[2]], text)


def linked(source: Path, target: Path) -> None:
    """Copy a directory by hard links: its files need no room of their own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--link", "--no-target-directory", source, target], check=True)
