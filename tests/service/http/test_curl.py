"""The curl commands of docs/searching.md for other programs are answered."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fixtures.services import ADMIN_KEY, Gallery, Running

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


READING = [command for command in commands() if "/v1/images" not in command]
(INDEXING,) = (command for command in commands() if "/v1/images" in command)


def answer_to(command: str, url: str, directory: Path) -> dict[str, Any]:
    """The answer to a command that is typed in a directory with the file cat.jpg."""
    Image.new("RGB", (40, 30), "red").save(directory / "cat.jpg")
    typed = command.replace("localhost:8000", url.removeprefix("http://"))
    done = subprocess.run(["bash", "-c", typed], cwd=directory, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in answer, answer
    return answer


@pytest.mark.parametrize("command", READING, ids=range(len(READING)))
def test_the_command_is_answered(running: Running, tmp_path: Path, command: str) -> None:
    assert answer_to(command, running.url, tmp_path)["object"] in ("list", "model")


def test_the_command_that_indexes_images_is_answered(locked: Gallery, tmp_path: Path) -> None:
    answer = answer_to(INDEXING.replace("curl ", f"curl -H 'X-API-Key: {ADMIN_KEY}' ", 1), locked.url, tmp_path)
    of_bucket, of_file = answer["images"]
    assert (of_bucket["outcome"], of_bucket["reason"]) == ("failed", "outside_sources")
    assert of_file["outcome"] == "indexed"


def test_every_command_is_found() -> None:
    assert len(READING) == 5
