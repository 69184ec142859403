"""The two READMEs keep step, and the pages for operators name only what exists."""

import json
import os
import re
from pathlib import Path

import pytest
import typer
import yaml

from viewfinder.cli.main import app
from viewfinder.settings import CONFIG_VARIABLE, Settings, variable
from viewfinder.testing.openapi import Specification

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "README.zh-CN.md",
    "docs/operations.md",
    "docs/scaling.md",
    "docs/configuration.md",
    "infra/kubernetes/README.md",
    "docs/resilience.md",
]
HAN = re.compile(r"[\u4e00-\u9fff]")


def headings(text: str) -> list[int]:
    """The levels of all headings, in order."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", outside, re.MULTILINE)]


BLOCK = re.compile(r"^```.*?^```|(?:^    [^\n]*\n?(?:\n(?=    ))?)+", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    """What stands in fences or is indented by four: commands, code and drawings, which need no translation."""
    return BLOCK.findall(text)


def prose(text: str) -> list[str]:
    """All other paragraphs."""
    return [part for part in re.split(r"\n\s*\n", BLOCK.sub("\n", text)) if part.strip()]


def links(text: str) -> list[str]:
    return re.findall(r"\[[^]]*\]\(([^)]*)\)", text)


def words_of_code(text: str) -> set[str]:
    """Settings, flags, names: whatever is set in code type within a sentence."""
    return {re.sub(r"\s+", " ", word) for part in prose(text) for word in re.findall(r"`([^`]+)`", part)}


def test_both_readmes_have_the_same_headings() -> None:
    assert headings(CHINESE) == headings(ENGLISH)
    assert len(headings(ENGLISH)) > 5


def test_both_readmes_have_the_same_commands_code_and_drawings() -> None:
    assert blocks(CHINESE) == blocks(ENGLISH)
    assert len(blocks(ENGLISH)) > 8


def test_both_readmes_link_to_the_same_pages() -> None:
    assert links(CHINESE)[0] == "README.md"
    assert links(ENGLISH)[0] == "README.zh-CN.md"
    assert links(CHINESE)[1:] == links(ENGLISH)[1:]


def test_both_readmes_name_the_same_settings_flags_and_fields() -> None:
    assert words_of_code(CHINESE) == words_of_code(ENGLISH)


def test_each_paragraph_of_the_readme_is_translated() -> None:
    assert [part for part in prose(CHINESE) if not HAN.search(part)] == ["# viewfinder"]
    assert len(prose(CHINESE)) == len(prose(ENGLISH))
    for english, chinese in zip(prose(ENGLISH), prose(CHINESE), strict=True):
        for mark in ("\n|", "\n- **"):  # rows and items
            assert chinese.count(mark) == english.count(mark)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for link in links(file.read_text(encoding="utf-8")):
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
    known = {CONFIG_VARIABLE, *map(variable, Settings.model_fields)}
    named = set(re.findall(r"VIEWFINDER_[A-Z0-9_]*[A-Z0-9]", (ROOT / page).read_text(encoding="utf-8")))
    assert named <= known


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_flags_in_a_page_exist(page: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    programs = rf"jobs/({'|'.join(commands)})\.py|(?<![\w/])viewfinder ({'|'.join(commands)})\b"
    for job, command, arguments in re.findall(rf"(?:{programs})([^\n`#]*)", (ROOT / page).read_text(encoding="utf-8")):
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", arguments)) - {"--help"}
        known = {flag for parameter in commands[job or command].params for flag in parameter.opts}
        assert used <= known, (job or command, used - known)


@pytest.mark.parametrize("page", PAGES)
def test_files_in_a_page_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])(?:infra|docs|jobs|serve|benchmarks|demo)/[\w./-]*\w", text)
    made = {"benchmarks/out/results.json"}
    assert not {name for name in named if name not in made and not (ROOT / name).exists()}


def test_what_the_runbook_asks_of_qdrant_is_in_qdrants_specification() -> None:
    if not (openapi := os.environ.get("QDRANT_OPENAPI")):
        pytest.skip("set QDRANT_OPENAPI to Qdrant's openapi.json")
    specification = Specification(json.loads(Path(openapi).read_text()))
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ \$Q(/\S+)(?: -X (\w+))?(?: -d '(.*)')?", text, re.MULTILINE)
    assert len(commands) >= 8
    for path, method, body in commands:
        body = body.replace("'$LIVE'", "live")
        complaint = specification.complaint(method or "GET", path, {}, json.loads(body) if body else None)
        assert complaint is None


def test_the_proxy_in_the_runbook_lets_through_what_the_service_takes() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    serve = yaml.safe_load((ROOT / "infra/serve_config.yaml").read_text())
    settings = Settings.load({}, **serve["applications"][0]["args"])
    number = {name: int(value) for name, value in re.findall(r"^ +(\w+) +(\d+)s?; ", text, re.MULTILINE)}
    assert number["client_max_body_size"] == settings.max_body_bytes
    assert number["proxy_read_timeout"] > settings.request_timeout_s
    assert number["keepalive_timeout"] < serve["http_options"]["keep_alive_timeout_s"]
    assert f":{serve['http_options']['port']};" in text


def test_commands_of_viewfinder_in_the_runbook_exist() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`viewfinder (\w+)", text)) <= known
