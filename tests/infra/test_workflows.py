"""The GitHub Actions workflows: actionlint accepts them, actions are pinned, a release tests before it publishes."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    return document


def actionlint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("actionlint") or shutil.which("actionlint", path=str(Path.home() / "go/bin"))
    if program is None:
        pytest.skip("go install github.com/rhysd/actionlint/cmd/actionlint@latest")
    return subprocess.run([program, "-no-color", str(path)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_accepts_it(path: Path) -> None:
    done = actionlint(path)
    assert done.returncode == 0, done.stdout


def test_actionlint_would_notice_a_mistake(tmp_path: Path) -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    broken = tmp_path / "release.yml"
    broken.write_text(text.replace("needs.build.outputs.version", "needs.built.outputs.version"))
    assert "built" in actionlint(broken).stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each)] == []


def test_both_workflows_run_what_developers_run() -> None:
    for name in ("ci.yml", "release.yml"):
        assert {"run": ".ci/run"} in load(name)["jobs"]["test"]["steps"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_nothing_is_published_before_it_is_built_and_tested() -> None:
    jobs = load("release.yml")["jobs"]
    publishing = {name for name, job in jobs.items() if "write" in (job.get("permissions") or {}).values()}
    assert publishing == {"pypi", "images"}
    for name in publishing:
        assert set(jobs[name]["needs"]) == {"build", "test"}


def test_images_carry_an_sbom_and_their_provenance() -> None:
    job = load("release.yml")["jobs"]["images"]
    assert job["strategy"]["matrix"]["torch"] == ["cpu", "cuda"]
    step = job["steps"][-1]["with"]
    assert step["file"] == "infra/Dockerfile"
    assert step["sbom"] is True
    assert step["provenance"] == "mode=max"
