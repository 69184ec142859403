"""The `viewfinder` command against a running service."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.viewfinder.conftest import Running
from viewfinder import __version__
from viewfinder.cli import app
from viewfinder.errors import ConfigurationError, ServiceUnavailableError
from viewfinder.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ask(running: Running, monkeypatch: pytest.MonkeyPatch) -> "Ask":
    monkeypatch.setenv("VIEWFINDER_SERVER", running.url)
    return Ask()


class Ask:
    """Runs the command in this process; the settings name the running service."""

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)


def test_a_search_prints_a_table_of_hits(ask: Ask) -> None:
    done = ask("search", "a red car", "--top-k", "2")
    assert done.exit_code == 0
    assert "s3://bucket/2.jpg" in done.output
    assert done.output.count("s3://") == 2


def test_a_search_prints_json(ask: Ask, running: Running) -> None:
    document = json.loads(ask("search", "a red car", "-k", "1", "--target", "caption", "--json").output)
    assert document["collection"] == running.collection
    assert [hit["caption"] for hit in document["hits"]] == ["a red car"]


def test_stats_are_printed_as_table_and_json(ask: Ask, running: Running) -> None:
    assert running.collection in ask("stats").output
    assert json.loads(ask("stats", "--json").output)["points"] == 5


def test_an_address_given_goes_before_the_settings(ask: Ask, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:1")
    assert ask("stats", "--server", running.url).exit_code == 0
    assert isinstance(ask("stats").exception, ServiceUnavailableError)
    assert isinstance(ask("stats", "--server", "127.0.0.1:1").exception, ConfigurationError)


@pytest.mark.parametrize(
    "arguments",
    [
        ("search",),
        ("search", "a cat", "--top-k", "0"),
        ("search", "a cat", "--top-k", "201"),
        ("search", "a cat", "--target", "words"),
        ("serach", "a cat"),
    ],
)
def test_wrong_usage_ends_with_status_2(ask: Ask, arguments: tuple[str, ...]) -> None:
    assert ask(*arguments).exit_code == 2


def test_the_models_are_printed_as_json(ask: Ask) -> None:
    assert [each["name"] for each in json.loads(ask("models", "--json").output)] == list(REGISTRY)


def test_the_version_is_printed(ask: Ask) -> None:
    assert ask("--version").output == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "says"),
    [
        (["search", "a cat"], {"VIEWFINDER_SERVER": "http://127.0.0.1:1"}, 1, "cannot be reached"),
        (["stats"], {"VIEWFINDER_SERVER": "nonsense"}, 2, "VIEWFINDER_SERVER: must begin with http://"),
    ],
)
def test_an_error_is_one_message_and_a_status(
    arguments: list[str], environment: dict[str, str], status: int, says: str
) -> None:
    command = [sys.executable, "-c", "from viewfinder.cli import main; main()", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_search_from_the_shell(running: Running) -> None:
    command = [sys.executable, "-c", "from viewfinder.cli import main; main()", "search", "two birds", "-k", "1"]
    done = subprocess.run(
        [*command, "--server", running.url], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "s3://bucket/3.jpg" in done.stdout
