"""Fixtures that run the command, in this process and as a program."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.indexing import World
from tests.fixtures.services import Gallery, Running
from tests.indexing.sample_images import fill
from viewfinder.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "viewfinder"]


@dataclass(frozen=True)
class Done:
    """The result of a command: exit status and output."""

    status: int
    out: str
    err: str

    def check_message(self, status: int, says: str) -> None:
        """Assert that the command ended with this status and one message, which says this."""
        assert self.status == status
        assert says in self.err[self.err.lower().index("error: ") :]
        assert "Traceback" not in self.err


Viewfinder = Callable[..., Done]


@pytest.fixture
def viewfinder(capsys: pytest.CaptureFixture[str]) -> Viewfinder:
    """`viewfinder("search", "a cat")` runs a command line in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        return Done(status, out, err)

    return run


Mistake = Callable[[Sequence[str], Mapping[str, str]], Done]


@pytest.fixture
def make_mistake(viewfinder: Viewfinder, world: World, monkeypatch: pytest.MonkeyPatch) -> Mistake:
    """Runs a job with wrong flags or variables over a bucket with two images; SOURCE stands for the bucket."""

    def run(arguments: Sequence[str], environment: Mapping[str, str]) -> Done:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return viewfinder(*(each.replace("SOURCE", world.source) for each in arguments))

    fill(world.bucket, ["00.jpg", "01.jpg"])
    return run


@pytest.fixture
def at_running(running: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """VIEWFINDER_SERVER names the running service."""
    monkeypatch.setenv("VIEWFINDER_SERVER", running.url)
    return running


@pytest.fixture
def at_gallery(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """VIEWFINDER_SERVER names the service with real images."""
    monkeypatch.setenv("VIEWFINDER_SERVER", gallery.url)
    return gallery


def program(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run the command as a program, and wait for it."""
    settings: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": False, "timeout": 60}
    return subprocess.run([*PROGRAM, *arguments], env=os.environ | dict(environment or {}), **settings | options)


@pytest.fixture
def unused_port() -> int:
    """A port that no program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
