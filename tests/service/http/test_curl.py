"""The curl commands of docs/searching.md for other programs are answered."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.fixtures.services import Running

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[3] / "docs" / "searching.md"


def commands() -> list[str]:
    """The commands, each with the lines up to the end of its quotation."""
    found: list[str] = []
    for line in map(str.strip, DOCS.read_text(encoding="utf-8").splitlines()):
        is_open = bool(found) and (found[-1].endswith("\\") or found[-1].count("'") % 2 == 1)
        if is_open:
            found[-1] += f"\n{line}"
        elif line.startswith("curl "):
            found.append(line)
    return found


@pytest.mark.parametrize("command", commands(), ids=range(len(commands())))
def test_the_command_is_answered(running: Running, tmp_path: Path, command: str) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "cat.jpg")
    address = running.url.removeprefix("http://")
    done = subprocess.run(
        ["bash", "-c", command.replace("localhost:8000", address)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    assert answer["object"] in ("list", "model")


def test_every_command_is_found() -> None:
    assert len(commands()) == 5
