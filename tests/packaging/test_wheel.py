"""The wheel holds the whole package and works outside the clone with each set of extras."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import httpx
import pytest

from tests.packaging.environments import ROOT, Environment
from viewfinder._version import __version__
from viewfinder.testing.fast_proxy import free_ports

pytestmark = pytest.mark.slow

PHRASE = "a guitar and a pig by the sea"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once per session, from the working tree."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def description(wheel: Path) -> Message:
    """The metadata of the wheel; its payload is the page on PyPI."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="session")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel without extras in an empty environment, its dependencies from the package index."""
    environment = Environment(tmp_path_factory.mktemp("core"))
    environment.install(str(wheel))
    return environment


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("images")
    for path in sorted((ROOT / "demo/corpus").glob("*.jpg"))[:24]:
        shutil.copy(path, directory)
    return directory


# -- Contents -------------------------------------------------------------------------------------------------------


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("viewfinder/")}
    files = {path for path in (ROOT / "viewfinder").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert held == {str(path.relative_to(ROOT)) for path in files}
    assert "viewfinder/py.typed" in held


def test_the_version_is_that_of_the_package_and_of_the_changelog(description: Message) -> None:
    assert description["Version"] == __version__
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_page_on_pypi_renders_and_links_to_whole_addresses(wheel: Path, description: Message) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, wheel.parent.iterdir())],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout
    links = re.findall(r"\]\(([^)]+)\)", str(description.get_payload()))
    assert len(links) > 5
    assert [link for link in links if not link.startswith("https://")] == []


def test_open_clip_stays_below_its_next_major_version(description: Message) -> None:
    requirements = [each for each in description.get_all("Requires-Dist", []) if each.startswith("open-clip-torch")]
    assert requirements
    assert all("<4" in each for each in requirements)


# -- Without extras -------------------------------------------------------------------------------------------------


def test_the_core_install_holds_neither_torch_nor_ray_nor_numpy(core: Environment) -> None:
    assert [name for name in ("torch", "ray", "numpy", "fastapi", "qdrant_client") if core.has(name)] == []


def test_the_core_install_imports_the_client_from_the_wheel(core: Environment) -> None:
    where = core.output("python", "-c", "import viewfinder.client; print(viewfinder.client.__file__)")
    assert Path(where.strip()).is_relative_to(core.directory)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--help"], "search"), (["--version"], __version__), (["models"], "demo")],
    ids=["help", "version", "models"],
)
def test_the_core_install_runs_commands_that_need_no_extra(
    core: Environment, arguments: list[str], expected: str
) -> None:
    assert expected in core.output("viewfinder", *arguments)


# -- With extras ----------------------------------------------------------------------------------------------------


def linked(wheel: Path, description: Message, extra: str, directory: Path) -> Environment:
    environment = Environment(directory)
    environment.link(description.get_all("Requires-Dist", []), [extra])
    environment.install("--no-deps", str(wheel))
    return environment


@pytest.fixture(scope="session", params=["local", "all"])
def installed(
    request: pytest.FixtureRequest, wheel: Path, description: Message, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """The wheel beside exactly the packages that one extra needs, in the lock's versions."""
    environment = linked(wheel, description, request.param, tmp_path_factory.mktemp(request.param))
    assert environment.has("torch")
    assert environment.has("ray") is environment.has("fastapi") is (request.param == "all")
    return environment


@pytest.fixture(params=["local", "all"])
def downloaded(request: pytest.FixtureRequest, wheel: Path) -> Iterator[Environment]:
    """The wheel with one extra, all of it from the package index: about 6 GB, on a disk and removed after the test."""
    with tempfile.TemporaryDirectory(prefix="viewfinder-tests-") as directory:
        environment = Environment(Path(directory))
        environment.install(f"viewfinder[{request.param}] @ {wheel.as_uri()}")
        yield environment


def index_and_search(environment: Environment, images: Path) -> None:
    environment.output("viewfinder", "index", str(images), timeout_s=300)
    found = json.loads(environment.output("viewfinder", "search", PHRASE, "--json"))
    hits = found["hits"]
    assert hits, found
    assert {Path(hit["uri"]).name for hit in hits} <= {path.name for path in images.iterdir()}


@pytest.mark.full
def test_an_extra_indexes_and_searches(installed: Environment, images: Path) -> None:
    index_and_search(installed, images)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_an_extra_from_the_package_index_indexes_and_searches(downloaded: Environment, images: Path) -> None:
    index_and_search(downloaded, images)


@pytest.mark.full
@pytest.mark.cluster
def test_all_serves_what_was_indexed(
    wheel: Path, description: Message, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = linked(wheel, description, "all", tmp_path_factory.mktemp("serving"))
    index_and_search(environment, images)
    (port,) = free_ports(1)
    program = [str(environment.directory / "bin/viewfinder"), "serve", "--port", str(port)]
    variables = {
        "PATH": f"{environment.directory / 'bin'}:/usr/bin:/bin",
        "HOME": str(environment.directory),
        "VIEWFINDER_DATA_DIR": str(environment.data_dir),
        "VIEWFINDER_MODEL": "demo",
    }
    service = f"http://127.0.0.1:{port}"
    with subprocess.Popen(program, cwd=environment.directory, env=variables) as process:
        try:
            deadline = time.monotonic() + 240
            while not _ready(service):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert "hits" in environment.output("viewfinder", "search", PHRASE, "--json", VIEWFINDER_SERVER=service)
        finally:
            process.terminate()
            process.wait(60)


def _ready(service: str) -> bool:
    try:
        return httpx.get(f"{service}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
