"""The pages for users and operators name only files, settings, commands and flags that exist."""

import json
import os
import re
from pathlib import Path

import pytest
import typer
import yaml

from tests.infra.arguments import command_group
from viewfinder.settings import Settings
from viewfinder.testing.openapi import Specification

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "demo/README.md",
    "benchmarks/README.md",
    "infra/kubernetes/README.md",
    "infra/terraform/eks/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```.*?^```|(?:^    [^\n]*\n?(?:\n(?=    ))?)+", re.MULTILINE | re.DOTALL)
# Entry points with the command whose flags they take.
ENTRY_POINTS = {
    "jobs/index.py": "index",
    "jobs/reindex.py": "reindex",
    "jobs/evaluate.py": "evaluate",
}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def links(text: str) -> list[str]:
    return re.findall(r"\[[^]]*\]\(([^)]*)\)", text)


def commands() -> dict[str, set[str]]:
    """The commands of `viewfinder`, each with its flags."""
    group = command_group()
    context = typer.Context(group)
    return {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        | {"--help", "-h"}
        for name in group.list_commands(context)
        if (command := group.get_command(context, name)) is not None
    }


def uses(text: str) -> list[tuple[str, str]]:
    """Each command of `viewfinder` in a page with the rest of its line, entry points of jobs included."""
    found = re.findall(r"(?<![\w/.-])viewfinder ([a-z]+)(?![\w/.:-])([^\n`#|]*)", _commands_only(text))
    for program, command in ENTRY_POINTS.items():
        found += [(command, rest) for rest in re.findall(rf"{re.escape(program)} ([^\n`#|]*)", text)]
    return found


def _commands_only(text: str) -> str:
    """The parts of a page in code type, where `viewfinder` is the command and not the name of the project."""
    outside = BLOCK.sub("\n", text)
    joined = [re.sub(r"\n +\[", " [", block) for block in BLOCK.findall(text)]
    blocks = [line.strip().removeprefix("$ ") for block in joined for line in block.splitlines()]
    return "\n".join([*re.findall(r"`(viewfinder [^`]+)`", outside), *(each for each in blocks if _starts(each))])


def _starts(line: str) -> bool:
    return line.startswith("viewfinder ") and not line.startswith("viewfinder   ")


def test_both_readmes_have_the_same_commands_code_and_drawings() -> None:
    english, chinese = BLOCK.findall(read("README.md")), BLOCK.findall(read("README.zh-CN.md"))
    assert chinese == english
    assert len(english) > 8


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for link in links(read(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}, link


@pytest.mark.parametrize("page", PAGES)
def test_variables_in_a_page_are_settings(page: str) -> None:
    known = {f"VIEWFINDER_{name.upper()}" for name in Settings.model_fields} | {"VIEWFINDER_CONFIG"}
    assert set(re.findall(r"VIEWFINDER_[A-Z0-9_]*[A-Z0-9]", read(page))) <= known


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_flags_in_a_page_exist(page: str) -> None:
    known = commands()
    for command, rest in uses(read(page)):
        assert command in known, f"viewfinder {command}"
        flags = set(re.findall(r"(?<![\w-])(?:--[a-z][a-z-]*|-[a-z](?!\w))", rest))
        assert flags <= known[command], f"viewfinder {command}: {flags - known[command]}"


@pytest.mark.parametrize("page", PAGES)
def test_files_in_a_page_exist(page: str) -> None:
    named = re.findall(r"(?<![\w/.-])(?:infra|docs|jobs|serve|benchmarks|demo|viewfinder|tests)/[\w./-]*\w", read(page))
    made = {"benchmarks/out/results.json", "benchmarks/out/images", "tests/output"}
    assert not {name for name in named if name not in made and not (ROOT / name).exists()}


def test_requests_to_qdrant_in_the_runbook_follow_its_specification() -> None:
    if not (openapi := os.environ.get("QDRANT_OPENAPI")):
        pytest.skip("set QDRANT_OPENAPI to Qdrant's openapi.json")
    specification = Specification(json.loads(Path(openapi).read_text()))
    requests = re.findall(r"^\$ \$Q(/\S+)(?: -X (\w+))?(?: -d '(.*)')?", read("docs/operations.md"), re.MULTILINE)
    assert len(requests) >= 8
    for path, method, body in requests:
        body = body.replace("'$LIVE'", "live")
        violation = specification.violation(method or "GET", path, {}, json.loads(body) if body else None)
        assert violation is None


def test_limits_of_the_proxy_in_the_runbook_fit_those_of_the_service() -> None:
    text = read("docs/operations.md")
    serve = yaml.safe_load((ROOT / "infra/serve_config.yaml").read_text())
    settings = Settings.load({}, **serve["applications"][0]["args"])
    number = {name: int(value) for name, value in re.findall(r"^ +(\w+) +(\d+)s?; ", text, re.MULTILINE)}
    assert number["client_max_body_size"] == settings.max_body_bytes
    assert number["proxy_read_timeout"] > settings.request_timeout_s
    assert number["keepalive_timeout"] < serve["http_options"]["keep_alive_timeout_s"]
    assert f":{serve['http_options']['port']};" in text


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:viewfinder|jobs|serve)/[\w/]+\.py)`", read(page))
    assert [each for each in named if not (ROOT / each).is_file()] == []
