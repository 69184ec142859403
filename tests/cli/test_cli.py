"""The `viewfinder` command against a running service."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.fixtures.services import ADMIN_KEY, READ_KEY, Gallery, Running
from viewfinder import Client, __version__
from viewfinder.cli.main import app
from viewfinder.errors import ConfigurationError, ServiceUnavailableError
from viewfinder.models.registry import REGISTRY
from viewfinder.service.http.keys import KeyRing
from viewfinder.settings import Settings
from viewfinder.sources.objects import point_id

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from viewfinder.cli.main import main; main()"]


@pytest.fixture
def ask(running: Running, monkeypatch: pytest.MonkeyPatch) -> "Ask":
    monkeypatch.setenv("VIEWFINDER_SERVER", running.url)
    return Ask()


@pytest.fixture
def gaze(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> "Ask":
    """The command, asking a service with real pictures."""
    monkeypatch.setenv("VIEWFINDER_SERVER", gallery.url)
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
        ("search", "a cat", "--rank", "luck"),
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


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("command", ["models", pytest.param("doctor", marks=pytest.mark.slow)])
def test_tables_are_readable_at_the_width_of_a_terminal(command: str, width: int, tmp_path: Path) -> None:
    settings = {"VIEWFINDER_DATA_DIR": str(tmp_path / ("directory-" * 12)), "VIEWFINDER_MODEL": "ViT-B-32::openai"}
    # In a terminal, as far as rich can tell; in a pipe it is wide always.
    environment = os.environ | settings | {"TTY_COMPATIBLE": "1", "COLUMNS": str(width), "TERM": "dumb"}
    done = subprocess.run([*COMMAND, command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "…" not in done.stdout
    lines = re.sub(r"\x1b\[[\d;]*m", "", done.stdout).splitlines()
    assert max(map(len, lines)) <= width
    if command == "models":
        for spec in REGISTRY.values():
            assert spec.name in done.stdout
            assert spec.good_for in done.stdout


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
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_search_from_the_shell(running: Running) -> None:
    done = subprocess.run(
        [*COMMAND, "search", "two birds", "-k", "1", "--server", running.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "s3://bucket/3.jpg" in done.stdout


# Everything that a search can say


def test_a_search_by_picture_by_id_and_by_several_things(gallery: Gallery, gaze: Ask) -> None:
    def found(*arguments: str) -> list[str]:
        done = gaze("search", *arguments, "-k", "1", "--json")
        assert done.exit_code == 0, done.output
        return [hit["uri"] for hit in json.loads(done.stdout)["hits"]]

    assert found("--image", str(gallery.files[3])) == [gallery.uris[3]]
    assert found("--id", gallery.uris[3]) != [gallery.uris[3]]
    assert found("picture 5", "--target", "caption") == [gallery.uris[5]]
    assert found("picture 5", "--image", str(gallery.files[3]), "--id", gallery.uris[4])


def test_scores_relevance_and_groups_stand_in_the_table(gaze: Ask) -> None:
    done = gaze("search", "picture 5", "--target", "caption", "--group-by", "tags", "-k", "2", "--diversity", "0")
    assert done.exit_code == 0
    for expected in ("group", "odd", "even", "score", "1.000", "relevance", "100%"):
        assert expected in done.stdout


def test_filter_and_rank_reach_the_service(gaze: Ask) -> None:
    odd = gaze("search", "picture 5", "--filter", '{"tags": {"eq": "odd"}}', "-k", "50", "--json")
    assert {tuple(hit["payload"]["tags"]) for hit in json.loads(odd.stdout)["hits"]} == {("odd",)}
    words = gaze("search", "5", "--rank", "words", "-k", "1", "--json")
    assert [hit["caption"] for hit in json.loads(words.stdout)["hits"]] == ["picture 5"]


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_warnings_go_to_standard_error(gaze: Ask, as_json: tuple[str, ...]) -> None:
    done = gaze("search", "cat " * 200, *as_json)
    assert done.exit_code == 0
    assert "warning: The text is longer than the model reads" in done.stderr
    assert "warning:" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("search", "a", "--filter", "{"), ("search", "a", "--filter", "[1]"), ("search", "--id", "x"), ("search",)],
)
def test_what_cannot_be_sent_is_one_message_with_status_2(gaze: Ask, arguments: tuple[str, ...]) -> None:
    error = gaze(*arguments).exception
    assert isinstance(error, ConfigurationError)
    assert error.exit_status == 2


# Takedowns and keys


def test_a_picture_is_removed_and_restored(locked: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", locked.url)
    monkeypatch.setenv("VIEWFINDER_API_KEY", ADMIN_KEY)
    uri, id_ = locked.uris[1], point_id(locked.uris[1])
    done = Ask()("remove", uri, "--yes")
    assert f"{uri} is out of the index" in done.stdout
    assert f"viewfinder restore {id_}" in done.stdout
    again = json.loads(Ask()("remove", id_, "--yes", "--json").stdout)
    assert again == {"id": id_, "uri": uri, "removed": False}
    assert "may come back" in Ask()("restore", id_).stdout
    assert json.loads(Ask()("restore", id_, "--json").stdout) == {"id": id_, "restored": False}


def test_nothing_is_removed_unasked(locked: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_API_KEY", ADMIN_KEY)
    assert isinstance(Ask()("remove", locked.uris[1], "--server", locked.url).exception, ConfigurationError)
    with Client(locked.url, api_key=ADMIN_KEY) as client:
        assert client.takedowns() == []


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 1)])
def test_on_a_terminal_somebody_is_asked(locked: Gallery, answer: str, left: int) -> None:
    id_ = point_id(locked.uris[1])
    controller, terminal = pty.openpty()
    with open(terminal, "rb") as stdin, open(controller, "wb", buffering=0) as typist:  # noqa: PTH123 - descriptors
        typist.write(f"{answer}\n".encode())
        done = subprocess.run(
            [*COMMAND, "remove", id_, "--server", locked.url],
            stdin=stdin,
            cwd=ROOT,
            env=os.environ | {"VIEWFINDER_API_KEY": ADMIN_KEY},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert f"Take {locked.uris[1]} out of the index" in done.stderr
    assert done.returncode == left
    with Client(locked.url, api_key=ADMIN_KEY) as client:
        assert sum(hit.id == id_ for hit in client.search("picture 1")) == left


@pytest.mark.parametrize(
    ("key", "arguments", "says"),
    [
        ("guessed", ["stats"], "Set VIEWFINDER_API_KEY to a key of this service."),
        (READ_KEY, ["restore", "s3://b/k"], "viewfinder key --admin"),
    ],
)
def test_a_missing_right_is_one_line_that_says_what_to_set(
    locked: Gallery, key: str, arguments: list[str], says: str
) -> None:
    environment = os.environ | {"VIEWFINDER_API_KEY": key, "VIEWFINDER_SERVER": locked.url}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert key not in done.stderr


@pytest.mark.parametrize("admin", [(), ("--admin",)])
def test_a_made_key_opens_a_service_that_knows_its_digest(admin: tuple[str, ...]) -> None:
    made = json.loads(Ask()("key", *admin, "--json").stdout)
    ring = KeyRing(Settings.load({}, api_keys=made["digest"]).api_keys)
    found = ring.find(made["key"].encode())
    assert found is not None
    assert found.scope == ("admin" if admin else "read")
    assert made["key"] not in made["digest"]
    shown = Ask()("key", *admin).stdout
    assert "VIEWFINDER_API_KEYS=" in shown
    assert made["key"] not in shown
