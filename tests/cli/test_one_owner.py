"""One local index and several programs: whoever holds it, every command works."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, ROOT, Viewfinder, program
from viewfinder.store import StoreAddress, open_local

IMAGES = sorted((ROOT / "demo" / "corpus").glob("*.jpg"))[:6]

# Joins the Ray of the service, as `viewfinder index --ray` does.
JOIN = """
import sys
from pathlib import Path
from viewfinder.cluster.session import start_ray
from viewfinder.store import StoreAddress, connect
address = StoreAddress(Path(sys.argv[1]), retry_s=0)
with start_ray(address, lock_wait_s=20) as session, connect(address) as store:
    live = store.collections.live("images")
    print(session.owned, store.points.count(live))
"""


@pytest.fixture
def environment(tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine of its own: a data directory, a port, a home."""
    variables = {
        "VIEWFINDER_DATA_DIR": str(tmp_path / "data"),
        "VIEWFINDER_PORT": str(unused_port),
        "VIEWFINDER_MODEL": "demo",
        "HOME": str(tmp_path / "home"),  # Ray keeps its token there
    }
    (tmp_path / "home").mkdir()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("VIEWFINDER_SERVER", raising=False)
    return variables


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    for image in IMAGES[:4]:
        shutil.copy(image, directory)
    return directory


@pytest.mark.slow
def test_every_command_works_while_a_job_holds_the_index(
    environment: dict[str, str], images: Path, viewfinder: Viewfinder
) -> None:
    with open_local(StoreAddress(Path(environment["VIEWFINDER_DATA_DIR"]))):
        _use_all_commands(images, viewfinder)


@pytest.mark.slow
def test_every_command_works_while_no_program_holds_the_index(
    environment: dict[str, str], images: Path, viewfinder: Viewfinder
) -> None:
    _use_all_commands(images, viewfinder)


def _use_all_commands(images: Path, viewfinder: Viewfinder) -> None:
    done = viewfinder("index", str(images), "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["counts"]["indexed"] == 4
    first = str(images / IMAGES[0].name)
    done = viewfinder("search", "--image", first, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["hits"][0]["uri"] == f"file://{first}"
    assert "in this process" in done.err
    assert json.loads(viewfinder("status", "--json").out)["store"]["collections"][0]["points"] == 4
    assert json.loads(viewfinder("takedown", first, "--yes", "--json").out)["removed"]
    assert len(json.loads(viewfinder("search", "a house", "--json").out)["hits"]) == 3
    assert json.loads(viewfinder("index", str(images), "--json").out)["skipped"]["taken_down"] == 1
    assert json.loads(viewfinder("restore", first, "--json").out)["restored"]
    assert json.loads(viewfinder("index", str(images), "--json").out)["counts"]["indexed"] == 1


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of `viewfinder serve`, on a Ray with the token that Ray gives it by default."""
    monkeypatch.delenv("RAY_AUTH_MODE")
    log = tmp_path / "serve.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*PROGRAM, "serve", "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
    # Regression: Ray reported the task in which Serve's controller had been killed as failed.
    assert log.read_text().splitlines()[-1] == "Stopping the service ..."


@pytest.mark.full
@pytest.mark.cluster
def test_a_running_service_finds_what_is_indexed_beside_it(
    service: str, environment: dict[str, str], images: Path
) -> None:
    def run(*arguments: str, status: int = 0) -> dict[str, object]:
        done = program([*arguments, "--json"], timeout=300)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        document: dict[str, object] = json.loads(done.stdout) if done.stdout else {}
        return document

    def found(image: Path) -> list[object]:
        hits = run("search", "--image", str(image), "--limit", "1")["hits"]
        assert isinstance(hits, list)
        return [hit["uri"] for hit in hits]

    first, more = images / IMAGES[0].name, images / IMAGES[5].name
    run("search", "a house", status=1)  # there is no index yet
    run("index", str(images))
    using = f"Using the service at http://localhost:{environment['VIEWFINDER_PORT']}"
    _wait_until(lambda: using in program(["search", "a house"]).stderr)  # it has found the index
    assert found(first) == [f"file://{first}"]
    # The service's store is the one in VIEWFINDER_DATA_DIR.
    assert using in program(["status"]).stderr
    shutil.copy(IMAGES[5], more)
    run("index", str(images))
    assert found(more) == [f"file://{more}"]
    assert run("status")["store"]
    run("takedown", str(more), "--yes")
    assert found(IMAGES[5]) != [f"file://{more}"]
    run("restore", str(more))
    run("index", str(images))
    assert found(more) == [f"file://{more}"]
    joined = subprocess.run(
        [sys.executable, "-c", JOIN, environment["VIEWFINDER_DATA_DIR"]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert joined.stdout == "False 5\n", joined.stderr


def _wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)
