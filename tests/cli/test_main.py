"""The command line as a whole: help, version, mistakes, exit statuses, and response times."""

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.conftest import PROGRAM, ROOT, Viewfinder, program
from viewfinder.__main__ import main as run_program
from viewfinder._version import __version__
from viewfinder.cli.main import app

pytestmark = pytest.mark.slow

GROUP: Any = typer.main.get_command(app)
COMMANDS = list(GROUP.commands)
WIDTH = 80


def test_every_documented_command_exists() -> None:
    assert [
        *("index", "search", "serve", "reindex", "evaluate", "status", "models", "size", "doctor", "key"),
        *("takedown", "restore", "sources"),
    ] == COMMANDS


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda words: " ".join(words) or "top")
def test_help_has_examples_and_exit_statuses_and_fits_80_columns(
    command: list[str], flag: str, viewfinder: Viewfinder
) -> None:
    done = viewfinder(*command, flag)
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= WIDTH
    assert re.search(r"^  Examples:\n    .*viewfinder ", done.out, re.MULTILINE)
    assert "Exit status: 0 " in done.out
    assert not re.search("[─│╭╮]", done.out)
    assert not re.search(r"<[\w\[\]]+>", done.out), "no Python types"
    assert "..." not in done.out.replace("]...", ""), "no description is cut off"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_json_option(name: str, viewfinder: Viewfinder) -> None:
    assert "--json" in viewfinder(name, "--help").out


def test_every_option_has_a_help_text() -> None:
    for command in GROUP.commands.values():
        for parameter in command.params:
            assert getattr(parameter, "help", None), (command.name, parameter.name)


def test_without_a_command_help_is_printed(viewfinder: Viewfinder) -> None:
    done = viewfinder()
    assert done.status == 2
    assert "Usage: viewfinder" in done.out + done.err


def test_the_version_is_printed(viewfinder: Viewfinder) -> None:
    assert viewfinder("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands(shell: str) -> None:
    words = {"_TYPER_COMPLETE_ARGS": "viewfinder re", "COMP_WORDS": "viewfinder re", "COMP_CWORD": "1"}
    done = program([], {"_VIEWFINDER_COMPLETE": f"complete_{shell}", **words})
    assert {"reindex", "restore"} <= set(re.findall(r"\w+", done.stdout))
    assert "--install-completion" in program(["--help"]).stdout


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("serach cat", "Did you mean 'search'?"),
        ("index --souce photos", "--source"),
        ("index photos --modle demo", "--model"),
        ("index s3:/bucket/x", "did you mean s3://bucket/x?"),
        ("index s3:bucket/x", "did you mean s3://bucket/x?"),
        ("index --source S4://bucket", "did you mean s3://bucket?"),
        ("index photos --captions s3:/bucket/c.csv", "did you mean s3://bucket/c.csv?"),
        ("index gopher://x/y", "write s3://bucket/prefix, file:///path or a path"),
        ("index viewfinde", "No such file or directory: 'viewfinde'. Did you mean 'viewfinder'?"),
        ("index", "At least one source is required"),
        ("index photos --max-objects 0", "'0' is not a whole number of at least 1"),
        ("index photos --max-objects many", "'many' is not a whole number"),
        ("index photos --max-failure-ratio 2", "'2' is not a number from 0 to 1"),
        ("index photos --prune-max-ratio nan", "'nan' is not a number from 0 to 1"),
        ("index photos --prune --max-objects 5", "Needs a complete listing"),
        ("index photos --config nowhere.toml", "--config: 'nowhere.toml' cannot be read"),
        ("index . --model ViT-B-23::openai", "Closest known: 'ViT-B-32::openai'"),
        ("index . --model demmo", "Closest known: 'demo'"),
        ("index . --model ./nowhere", "no such directory"),
        ("reindex --keep -1", "'-1' is not a whole number of at least 0"),
        ("reindex --rollback --release", "be combined with --release"),
        ("reindex --rebuild --when-model-changed", "be combined with --when-model-changed"),
        ("evaluate --collection a --collection b --collection c", "at most 2 collections"),
        ("search", "Give a text, --image, --image-url or --id"),
        ("search cat --rank luck", "'clip', 'words', 'hybrid'"),
        ("search cat --target words", "'image', 'caption', 'both'"),
        ("search cat -k 0", "not a whole number from 1 to 200"),
        ("search cat --top-k 201", "not a whole number from 1 to 200"),
        ("search cat --filter {", "is not JSON"),
        ("search cat --filter [1]", "is not a JSON object"),
        ("search cat --weights clip", "does not have the form clip=1,words=0.5"),
        ("search cat --all --limit 3", "be combined with --limit"),
        ("search cat --diversity 2", "'2' is not a number from 0 to 1"),
        ("search cat --rank hybird", "Did you mean 'hybrid'?"),
        ("search cat --target imag", "'imag' is not one of 'image', 'caption', 'both'. Did you mean 'image'?"),
        ("search cat --weights foo=1", "'foo' is not one of 'clip', 'words'"),
        ("search cat --weights clip=-1", "'-1' is not a number from 0 to 100"),
        ("search cat --weights clip=0,words=0", "At least one weight must be above 0"),
        ("search cat --weights clip=1", "Needs --rank hybrid"),
        ("search cat --group-size 2", "Needs --group-by"),
        ("search cat --max-objects 3", "No such option: --max-objects. Did you mean --limit?"),
        ("search --image nowhere.jpg", "The image 'nowhere.jpg' cannot be read"),
        ("search --id nowhere.jpg", "'nowhere.jpg' is neither an id"),
        ("search cat --index Bad", "Invalid value for '--index': 'Bad' is not a name of an index: 1 to 63 lower-case"),
        ("search cat --server localhost:8000", "Invalid value for '--server': 'localhost:8000' is not an address"),
        ("index viewfinder --limit 3", "No such option: --limit. Did you mean --max-objects?"),
        ("index s3//bucket/x", "did you mean s3://bucket/x?"),
        ("index s3/bucket/x", "did you mean s3://bucket/x?"),
        ("index README.md", "is neither an image nor a list of URIs"),
        ("index viewfinder --captions nowhere.json", "No such file or directory: 'nowhere.json'"),
        ("index viewfinder --prune-max-ratio 0.5", "Needs --prune"),
        ("index viewfinder --ray=http://head:8265", "write head:6379"),
        ("reindex --source nowhere", "No such file or directory: 'nowhere'"),
        ("reindex --captions nowhere.csv", "No such file or directory: 'nowhere.csv'"),
        ("reindex --evaluation-set nowhere.jsonl", "No such file or directory: 'nowhere.jsonl'"),
        ("reindex --rollback --model demo --keep 3", "'--rollback': Cannot be combined with --keep and --model"),
        ("reindex --release --rebuild", "'--release': Cannot be combined with --rebuild"),
        ("evaluate --evaluation-set nowhere.jsonl", "No such file or directory: 'nowhere.jsonl'"),
        ("size --images 1M --gpu L44", "Did you mean 'L4'?"),
        ("size --images 1M --quantization int4", "'int4' is not one of 'none', 'int8', '4bit'"),
        ("size --images 1M --limit 4", "Did you mean --images?"),
        ("takedown /x.png", "Not a terminal: pass --yes to confirm"),
        ("sources lsit", "'lsit' is not one of 'list', 'remove'. Did you mean 'list'?"),
        ("sources remove s3://b/k", "Not a terminal: pass --yes to confirm"),
        ("serve --port 99999", "not a whole number from 0 to 65535"),
        ("takedown nothing --yes", "'nothing' is neither an id, a URI"),
    ],
)
def test_a_mistake_is_named_with_the_valid_spelling(line: str, says: str, viewfinder: Viewfinder) -> None:
    done = viewfinder(*line.split())
    assert done.status == 2
    assert done.out == ""
    assert says in " ".join(done.err.split())
    assert "Value error" not in done.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("serach cat", "Did you mean 'search'?"),
        ("search cat --rank luck", "Invalid value for '--rank'"),
        ("search cat --souce x", "No such option: --souce"),
        ("index nowhere", "No such file or directory: 'nowhere'"),
    ],
)
def test_with_json_a_mistake_is_an_object_on_standard_error(line: str, says: str, viewfinder: Viewfinder) -> None:
    done = viewfinder(*line.split(), "--json")
    assert (done.status, done.out) == (2, "")
    error = json.loads(done.err)["error"]
    assert error["exit_status"] == 2
    assert says in error["message"]


def test_the_exit_status_is_the_same_with_json(viewfinder: Viewfinder) -> None:
    assert viewfinder("size", "--images", "1M", "--json").status == 0
    assert viewfinder("search", "--help", "--json").status == 0


class _InterruptedImport:
    """A finder of modules that raises `KeyboardInterrupt` for the command line, as Ctrl-C does."""

    def find_spec(self, name: str, *arguments: object) -> None:
        if name == "viewfinder.cli.main":
            raise KeyboardInterrupt


def test_an_interrupt_during_the_imports_has_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "viewfinder.cli.main")
    monkeypatch.setattr(sys, "meta_path", [_InterruptedImport(), *sys.meta_path])
    assert run_program() == 130


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    # Regression: a traceback instead of the name of an image.
    code = (
        "import viewfinder.cli.main as command; command.main = lambda: print('\u6d77.jpg')\n"
        "from viewfinder.__main__ import main; main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"\\u6d77.jpg\n", b"")


def test_the_console_script_is_the_module() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"viewfinder": f"{run_program.__module__}:{run_program.__name__}"}


@pytest.mark.parametrize(
    "line",
    [
        "index . --model ViT-B-23::openai",
        "index --souce x",
        "index s3:/bucket/x",
        "search a --rank luck",
        "serve --prot 1",
        "search --image nowhere.jpg",
        "takedown s3://bucket/x.png",
        "reindex --source nowhere",
    ],
)
def test_a_mistake_is_answered_fast_and_without_heavy_imports(line: str) -> None:
    code = (
        "import sys\nfrom viewfinder.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "loaded = {'ray', 'torch', 'open_clip', 'numpy', 'qdrant_client', 'pyarrow', 'boto3'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {loaded}' if loaded else status)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *line.split()], cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_closing_the_pipe_early_is_not_an_error() -> None:
    with subprocess.Popen(
        [*PROGRAM, "size", "--images", "100M"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is written
        errors = process.stderr.read()
        assert (process.wait(60), errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "says"),
    [
        (["search", "a cat"], {"VIEWFINDER_SERVER": "http://127.0.0.1:1"}, 1, "cannot be reached"),
        (["status"], {"VIEWFINDER_SERVER": "nonsense"}, 2, "VIEWFINDER_SERVER: must begin with http://"),
    ],
)
def test_an_error_is_one_message_and_a_status(
    arguments: list[str], environment: dict[str, str], status: int, says: str
) -> None:
    done = program(arguments, environment)
    assert done.returncode == status
    assert done.stdout == ""
    assert re.search(r"^error: ", done.stderr, re.MULTILINE)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_job_entry_points_run_the_commands() -> None:
    for job in ("index", "reindex", "evaluate"):
        done = subprocess.run(
            [sys.executable, f"jobs/{job}.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"Usage: viewfinder {job} " in done.stdout
        assert len((ROOT / "jobs" / f"{job}.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("command", ["models", pytest.param("doctor", marks=pytest.mark.slow)])
def test_tables_are_readable_at_the_width_of_a_terminal(command: str, width: int, tmp_path: Path) -> None:
    settings = {"VIEWFINDER_DATA_DIR": str(tmp_path / ("directory-" * 12)), "VIEWFINDER_MODEL": "ViT-B-32::openai"}
    # rich takes this for a terminal.
    done = program([command], settings | {"TTY_COMPATIBLE": "1", "COLUMNS": str(width), "TERM": "dumb"})
    assert "…" not in done.stdout
    lines = re.sub(r"\x1b\[[\d;]*m", "", done.stdout).splitlines()
    # A long path stays whole, so that it can be copied.
    assert [line for line in lines if len(line) > width and " " in line.strip()] == []
