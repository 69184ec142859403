"""The checks of `viewfinder doctor`."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cli.conftest import Viewfinder
from tests.fixtures.services import READ_KEY, Gallery, Running
from tests.indexing.sample_images import fill
from viewfinder.cli.doctor.command import examine
from viewfinder.cli.doctor.finding import Finding
from viewfinder.cli.doctor.machine import gpu
from viewfinder.models.checkpoint import locate
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, open_local
from viewfinder.store.directory import Holder, store_directory, try_lock
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.s3 import S3Endpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings that pass all checks; returns the data directory, which does not exist yet."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        monkeypatch.setenv("VIEWFINDER_PORT", str(unused.getsockname()[1]))
    monkeypatch.setenv("VIEWFINDER_MODEL", tiny_model)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def look(name: str, source: str | None = None) -> Finding:
    return next(check for check in examine(source) if check.name.startswith(name))


def test_no_check_fails_on_a_working_machine_and_nothing_is_changed(machine: Path, tiny_model: str) -> None:
    found = {check.name: check for check in examine()}
    assert {name: check.state for name, check in found.items() if check.state != "ok"} == {"source": "skipped"}
    assert tiny_model in found["model"].found
    assert "nothing stored yet" in found["Qdrant"].found
    assert "torch" in found["all packages"].found
    assert not machine.exists()


def test_an_impossible_data_directory_is_reported(machine: Path) -> None:
    machine.write_text("a file where the directory should be")
    check = look("data directory")
    assert (check.state, str(machine) in check.found) == ("failed", True)


def test_the_holder_of_the_embedded_store_is_named(machine: Path) -> None:
    with open_local(StoreAddress(data_dir=machine)):
        assert f"MiB, held by process {os.getpid()}" in look("Qdrant").found
    assert "held by no program" in look("Qdrant").found


def test_a_qdrant_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", "http://127.0.0.1:1")
    check = look("Qdrant")
    assert (check.state, "127.0.0.1:1" in check.found) == ("failed", True)


@pytest.mark.parametrize(
    ("model", "state", "says"),
    [
        ("ViT-B-23::openai", "failed", "Closest known"),
        ("/nowhere/at/all", "failed", "no such directory"),
        ("ViT-H-14-378::dfn5b", "note", "no weights of apple/DFN5B-CLIP-ViT-H-14-378"),
    ],
)
def test_a_missing_model_is_reported_without_downloading_it(
    model: str, state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_MODEL", model)
    check = look("model")
    assert check.state == state
    assert says in check.found


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one repository, as a download of its first weights leaves it: the rest is missing."""
    folder = tmp_path / "hub" / "models--org--name"
    commits = {"main": "a" * 40, "v1": "b" * 40}
    sizes = {"open_clip_model.safetensors": 1, "open_clip_pytorch_model.bin": 1, "README.md": 1}
    tree = {"format_version": 1, "files": {name: {"size": 1, "blob_id": "c" * 40} for name in sizes}}
    for directory in ("refs", "trees", "snapshots"):
        (folder / directory).mkdir(parents=True)
    for revision, commit in commits.items():
        (folder / "refs" / revision).write_text(commit)
        (folder / "trees" / f"{commit}.json").write_text(json.dumps(tree))
        (folder / "snapshots" / commit).mkdir()
    (folder / "snapshots" / commits["main"] / "open_clip_model.safetensors").touch()
    (folder / "snapshots" / commits["v1"] / "open_clip_pytorch_model.bin").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder / "snapshots"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("hf-hub:org/name", f"{'a' * 40}/open_clip_model.safetensors"),
        ("hf-hub:org/name@v1", f"{'b' * 40}/open_clip_pytorch_model.bin"),
        (f"hf-hub:org/name@{'b' * 40}", f"{'b' * 40}/open_clip_pytorch_model.bin"),
    ],
)
def test_downloaded_weights_are_found(name: str, file: str, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: "no weights" after a successful download, since it leaves out the other files of the repository; the
    # revision was not considered.
    monkeypatch.setenv("VIEWFINDER_MODEL", name)
    check = look("model")
    assert (check.state, check.found) == ("ok", f"{name}: {hub_cache / file}")


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("name", "state", "says"),
    [
        ("hf-hub:org/name@v2", "note", "no weights of org/name on this machine"),
        ("hf-hub:https://huggingface.co/org/name", "failed", "is not the name of a hub repository (ORG/NAME)"),
    ],
)
def test_weights_that_the_cache_lacks_are_reported(
    name: str, state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: another revision was found, and the address of a page was a traceback.
    monkeypatch.setenv("VIEWFINDER_MODEL", name)
    check = look("model")
    assert (check.state, says in check.found) == (state, True)


@pytest.mark.parametrize("error", [ImportError("libcudart.so.12: cannot open"), OSError("libc10.so"), ValueError("x")])
def test_a_broken_torch_is_a_failed_check(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: the traceback of `import torch`.
    class Broken(MetaPathFinder):
        def find_spec(self, name: str, *arguments: object) -> None:
            if name == "torch":
                raise error

    monkeypatch.setenv("VIEWFINDER_DEVICE", "cuda")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    check = look("GPU")
    assert (check.state, check.found) == ("failed", f"{type(error).__name__}: {error}")
    assert "torch" in check.advice


def test_torch_is_not_imported_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewfinder.models.devices.DEVICE_FILES", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu(Settings.load()).found.startswith("none; ")


def test_a_data_directory_that_cannot_be_reached_is_reported(forbidden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Regression: a traceback of pathlib.
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(forbidden / "data"))
    check = look("data directory")
    assert (check.state, check.found) == ("failed", f"{forbidden / 'data'} cannot be reached: Permission denied")
    assert look("Qdrant").state == "failed"
    assert look("model").state == "ok"


def test_a_requested_but_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    monkeypatch.setenv("VIEWFINDER_DEVICE", "cuda")
    assert look("GPU").state == "failed"


def test_a_viewfinder_service_on_the_port_is_ok(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_PORT", running.url.rpartition(":")[2])
    check = look("port")
    assert (check.state, f"5 points in {running.collection}" in check.found) == ("ok", True)


def test_a_service_without_an_index_is_a_note(without_index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_PORT", without_index.rpartition(":")[2])
    check = look("port")
    assert (check.state, "viewfinder index" in check.advice) == ("note", True)


@pytest.fixture
def other_program() -> Iterator[int]:
    """The port of another HTTP server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a notebook</html>")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_another_program_on_the_port_is_reported(other_program: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_PORT", str(other_program))
    check = look("port")
    assert (check.state, check.advice) == ("failed", "Stop it, or set VIEWFINDER_PORT.")


def test_the_configured_service_is_queried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:1")
    assert look("service").state == "failed"


def test_the_api_key_is_tried_on_the_configured_service(locked: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", locked.url)
    check = look("service")
    assert (check.state, "VIEWFINDER_API_KEY" in check.advice) == ("failed", True)
    monkeypatch.setenv("VIEWFINDER_API_KEY", READ_KEY)
    check = look("service")
    assert (check.state, "3 points" in check.found) == ("ok", True)


def test_a_viewfinder_service_with_keys_on_the_port_is_ok(locked: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_PORT", locked.url.rpartition(":")[2])
    check = look("port")
    assert (check.state, "does not accept this API key" in check.found) == ("ok", True)


def test_the_api_key_is_not_sent_to_an_unknown_program_on_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["authorization"])
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("VIEWFINDER_PORT", str(server.server_port))
        monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:1")
        monkeypatch.setenv("VIEWFINDER_API_KEY", "hush-hush")
        assert look("port").state == "failed"
        server.shutdown()
        thread.join()
    assert seen == [None]


@pytest.mark.parametrize(
    ("environment", "state", "says"),
    [
        ({}, "ok", "only this machine"),
        ({"HOST": "0.0.0.0"}, "note", "only this machine"),
        ({"HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "1"}, "note", "may search"),
        ({"API_KEYS": f"{'0' * 64},{'1' * 64}:admin"}, "ok", "2, of which 1"),
    ],
)
def test_the_clients_that_the_service_would_answer_are_reported(
    environment: dict[str, str], state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"VIEWFINDER_{name}", value)
    check = look("API keys")
    assert (check.state, says in check.found) == (state, True)


@pytest.mark.parametrize(("address", "state"), [("127.0.0.1:1", "failed"), ("auto", "ok")])
def test_a_cluster_that_does_not_listen_is_reported(address: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    check = look("Ray")
    assert (check.state, "RAY_ADDRESS" in check.advice) == (state, state == "failed")


def test_the_stale_address_of_a_crashed_cluster_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "ray/ray_current_cluster"
    left.parent.mkdir()
    left.write_text("127.0.0.1:1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    check = look("Ray")
    assert check.state == "failed"
    assert str(left) in check.advice


def test_every_failure_has_advice(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write_text("a file where the directory should be")
    settings = {
        "VIEWFINDER_MODEL": "ViT-B-23::openai",
        "VIEWFINDER_QDRANT_URL": "http://127.0.0.1:1",
        "VIEWFINDER_HOST": "256.0.0.1",
        "VIEWFINDER_SERVER": "http://127.0.0.1:1",
        "RAY_ADDRESS": "127.0.0.1:1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    failed = {check.name.split()[0]: check.advice for check in examine("/nowhere/at/all") if check.state == "failed"}
    assert failed.keys() == {"data", "Qdrant", "model", "port", "Ray", "service", "source"}
    assert all(failed.values())


def test_a_source_is_listed_and_read(s3: S3Endpoint, s3_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", s3.url)
    fill(s3_root / "doctor", ["a.jpg"])
    assert look("source", "s3://doctor").state == "ok"
    missing = look("source", "s3://docter")
    assert (missing.state, "'doctor'" in missing.found) == ("failed", True)
    assert "credentials" in missing.advice
    nowhere = look("source", str(s3_root / "nowhere"))
    assert nowhere.state == "failed"
    assert "credentials" not in nowhere.advice  # a directory has none


def test_wrong_settings_are_reported_and_end_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_MODLE", "demo")
    last = examine()[-1]
    assert last.name == "settings"
    assert "did you mean VIEWFINDER_MODEL?" in last.found


@pytest.mark.parametrize(("device", "status"), [("cpu", 0), ("nonsense", 1)])
def test_the_command_prints_a_table_and_exits_with_status_1_if_a_check_failed(
    device: str, status: int, viewfinder: Viewfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_DEVICE", device)
    done = viewfinder("doctor")
    assert done.status == status
    assert "what to do" in done.out
    assert ("failed" in done.out) == bool(status)
    assert ("failed" in {check["state"] for check in json.loads(viewfinder("doctor", "--json").out)}) == bool(status)


# A machine with nothing but the base dependencies


@pytest.fixture(scope="module")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with links to the packages that `pip install viewfinder` installs, and no others."""
    site = tmp_path_factory.mktemp("site")
    todo, done = ["viewfinder"], set[str]()
    while todo:
        distribution = importlib.metadata.distribution(todo.pop())
        if distribution.name in done:
            continue
        done.add(distribution.name)
        requirements = [Requirement(each) for each in distribution.requires or []]
        todo += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(distribution.locate_file(top)))
    (site / "viewfinder").symlink_to(ROOT / "viewfinder")
    return site


def bare(site: Path, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r}); {program}", *arguments]
    return subprocess.run(command, cwd="/", env=os.environ, capture_output=True, text=True, check=False, timeout=120)


def test_missing_extras_are_reported(base_install: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_MODEL", "ViT-B-32::openai")
    done = bare(base_install, "from viewfinder.cli.main import main; sys.exit(main())", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["client packages"]["state"] == "ok"
    assert found["all packages"]["state"] == "note"
    assert "torch" in found["all packages"]["found"]
    assert {found[name]["state"] for name in ("Qdrant", "model", "GPU", "Ray")} == {"skipped"}
    assert found["Qdrant"]["found"] == "qdrant-client and numpy are not installed"
    assert found["GPU"]["advice"] == "pip install 'viewfinder[local]'"
    assert (found["Ray"]["found"], found["Ray"]["advice"]) == ("ray is not installed", "pip install 'viewfinder[all]'")


def test_without_the_extra_client_and_command_line_work(base_install: Path, running: Running) -> None:
    done = bare(
        base_install,
        "from viewfinder.cli.main import main; sys.exit(main())",
        "search",
        "a red car",
        "--server",
        running.url,
        "--json",
    )
    assert json.loads(done.stdout)["hits"][0]["caption"] == "a red car", done.stderr


def test_without_the_extra_local_mode_says_what_to_install(base_install: Path) -> None:
    done = bare(base_install, "from viewfinder import ImageSearchEngine; ImageSearchEngine(mode='local')")
    last = done.stderr.splitlines()[-1]
    assert "ConfigurationError: ImageSearchEngine(mode='local') needs" in last
    assert "pip install 'viewfinder[local]'" in last


def test_the_model_of_the_live_index_is_checked(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: the model of VIEWFINDER_MODEL was checked, which searches do not use.
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        store.collections.open("images", ModelIdentity.of(locate(tiny_model)))
    monkeypatch.delenv("VIEWFINDER_MODEL", raising=False)
    check = look("model")
    assert (check.state, check.found.startswith("of index 'images': ")) == ("ok", True)
    monkeypatch.setenv("VIEWFINDER_MODEL", "ViT-B-32::openai")
    assert "VIEWFINDER_MODEL is ViT-B-32::openai, to which a re-index would change" in look("model").found


def test_the_ray_that_holds_the_store_is_the_ray_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = store_directory(tmp_path)
    directory.mkdir()
    holder = replace(Holder.here("10.0.0.1:6379"), host="this-machine")
    (directory / "holder.json").write_text(json.dumps(asdict(holder)))
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    lock = try_lock(directory / "holder.lock")
    assert lock is not None
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with lock:
        check = look("Ray")
    assert check.found == "10.0.0.1:6379 on this-machine, which holds the embedded store"


def test_a_file_that_is_no_source_is_reported(tmp_path: Path) -> None:
    captions = tmp_path / "captions.json"
    captions.write_text("{}")
    (check,) = [each for each in examine(str(captions)) if each.name == "source"]
    assert (check.state, "neither an image nor a list of URIs" in check.found) == ("failed", True)


def test_versions_of_packages_are_in_the_json_document(viewfinder: Viewfinder) -> None:
    packages = [line for line in viewfinder("doctor").out.splitlines() if line.startswith("client packages")]
    assert all("versions: --json" in line for line in packages)
