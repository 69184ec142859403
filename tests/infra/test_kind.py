"""The overlay for kind and the program that applies it: nothing is left to adapt."""

import json
import os
import re
import shutil
import subprocess
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, KUBERNETES, ROOT, VERSION, build, one, pods

pytestmark = pytest.mark.slow

SCRIPT = KUBERNETES / "kind.sh"
# Notes its arguments and its input, and answers as a cluster would: `exists` names the Secrets that are there.
PROGRAM = """#!/bin/sh
{ printf '%s\\037' "${0##*/}" "$@"; printf '\\036'; } >> "$CALLS"
case "$*" in
  *"get secret"*) for name in $EXISTS; do [ "$name" = "$7" ] && exit 0; done; exit 1 ;;
  *"get clusters"*) echo other; [ -z "$EXISTS" ] || echo viewfinder ;;
  *"--config -"*) cat > "$CALLS.kind" ;;
  *"--dry-run=client"*) echo kind: Namespace ;;
  *"--filename -"*) cat > /dev/null ;;
esac
"""


def run(directory: Path, exists: str = "") -> list[list[str]]:
    """Run the program with doubles of Docker, kind, kubectl and Helm; returns their arguments."""
    for name in ("docker", "kind", "kubectl", "helm"):
        (directory / name).write_text(PROGRAM)
        (directory / name).chmod(0o755)
    calls = directory / "calls"
    calls.write_text("")
    environment = {"PATH": f"{directory}:/usr/bin:/bin", "CALLS": str(calls), "EXISTS": exists}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [call.split("\x1f")[:-1] for call in calls.read_text().split("\x1e")[:-1]]


def secrets(calls: list[list[str]]) -> dict[tuple[str, str], dict[str, str]]:
    """The Secrets that were made, by namespace and name."""
    made = {}
    for call in calls:
        if call[5:8] == ["create", "secret", "generic"]:
            values = [each.removeprefix("--from-literal=").partition("=") for each in call[9:]]
            made[call[4], call[8]] = {name: value for name, _, value in values}
    return made


def test_it_makes_every_secret_that_a_pod_reads(tmp_path: Path) -> None:
    made = secrets(run(tmp_path))
    read: set[tuple[str, str, str]] = set()
    for document in build("overlays/kind"):
        for key, name in re.findall(r"'secretKeyRef': \{[^}]*?'key': '([\w-]+)', 'name': '([\w-]+)'", str(document)):
            read.add((document["metadata"]["namespace"], name, key))
    values = yaml.safe_load((KUBERNETES / "qdrant/values-dev.yaml").read_text())
    read |= {("viewfinder", *each["valueFrom"]["secretKeyRef"].values()) for each in values["env"]}
    read.add(("viewfinder", "ray-token", "auth_token"))
    assert len(read) >= 8
    for namespace, name, key in read:
        assert made[namespace, name][key], (namespace, name)
    assert made["dev-stores", "s3"] == made["viewfinder", "s3"]
    keys = made["viewfinder", "api-keys"]
    assert keys["digests"] == sha256(keys["key"].encode()).hexdigest()
    everything = [value for each in made.values() for value in each.values()]
    assert min(map(len, everything)) >= 48


def test_a_second_run_keeps_the_secrets_and_the_cluster(tmp_path: Path) -> None:
    calls = run(tmp_path, exists="ray-token qdrant-tokens api-keys s3")
    assert secrets(calls) == {}
    assert ["kind", "create"] not in [call[:2] for call in calls]
    assert [call for call in calls if "--kustomize" in call]


def test_it_applies_files_that_exist_to_its_own_cluster_in_versions_of_the_readme(tmp_path: Path) -> None:
    calls = run(tmp_path)
    for call in calls:
        if call[0] in ("kubectl", "helm"):
            assert call[1:3] == [{"kubectl": "--context", "helm": "--kube-context"}[call[0]], "kind-viewfinder"]
        for flag, value in pairwise(call):
            if flag in ("--filename", "--values", "--kustomize", "--file") and value != "-":
                assert (KUBERNETES / value).exists(), value
    readme = (KUBERNETES / "README.md").read_text()
    versions = [call[call.index("--version") + 1] for call in calls if "--version" in call]
    assert len(versions) == 2
    assert all(f"--version {version}" in readme for version in versions)
    cluster = yaml.safe_load((tmp_path / "calls.kind").read_text())
    (mount,) = cluster["nodes"][0]["extraMounts"]
    assert Path(mount["hostPath"]) == (ROOT / "demo/corpus").resolve()
    (volume,) = [each for each in store()["volumes"] if "hostPath" in each]
    assert volume["hostPath"]["path"] == mount["containerPath"]


def test_nothing_is_left_to_adapt_and_the_model_is_in_the_image() -> None:
    documents = build("overlays/kind")
    (settings,) = [each["data"] for each in documents if each["kind"] == "ConfigMap"]
    service = one(documents, "Service", "s3")
    address = f"http://s3.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    assert settings["VIEWFINDER_S3_ENDPOINT_URL"] == address
    assert settings["VIEWFINDER_MODEL"] == "demo"
    assert "COPY demo/models" in (INFRA / "Dockerfile").read_text()
    text = json.dumps(documents)
    assert not re.search(r"my-bucket|registry\.example\.com|111122223333", text)
    used = {container["image"] for pod in pods(documents) for container in pod.containers}
    assert used == {f"viewfinder:{VERSION}-cpu"}
    assert f"image={next(iter(used))}\n" in SCRIPT.read_text()


def test_all_pods_fit_on_the_machine_that_the_program_asks_for() -> None:
    documents = build("overlays/kind")
    asked = re.search(r"docker \((\d+) CPUs, (\d+) GB\)", SCRIPT.read_text())
    assert asked
    templates = [(pod.where, pod.spec) for pod in pods(documents)] + [("s3", store())]
    cores = memory = 0.0
    for where, spec in templates:
        # The nightly jobs run when the first has ended, on a cluster whose head is there always.
        if where.startswith("CronJob/") or where == "RayCluster/reindex/cpu":
            continue
        for container in spec["containers"]:
            cores += quantity(container["resources"]["requests"]["cpu"])
            memory += quantity(container["resources"]["requests"]["memory"])
    heads = [spec for where, spec in templates if where.endswith("/head")]
    cores += 0.2 * len(heads)  # the autoscaler beside each
    memory += 0.5 * 2**30 * len(heads)
    values = yaml.safe_load((KUBERNETES / "qdrant/values-dev.yaml").read_text())["resources"]["requests"]
    cores, memory = cores + quantity(values["cpu"]), memory + quantity(values["memory"])
    # What kind itself runs takes a core.
    assert cores + 1 <= int(asked[1]), cores
    assert memory + 10**9 <= int(asked[2]) * 10**9, memory / 1e9


def test_the_store_in_the_cluster_starts_like_the_one_of_compose() -> None:
    (container,) = store()["containers"]
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]["s3"]
    assert container["image"] == compose["image"]
    command = re.compile(r"exec rclone .*")
    (here,), (there,) = command.findall(container["command"][-1]), command.findall(compose["entrypoint"][-1])
    assert here == there
    printed = subprocess.run(
        ["sh", "-euc", container["command"][-1].replace("exec rclone", "env #")],
        env={"PATH": os.environ["PATH"], "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "secret"},
        capture_output=True,
        text=True,
        timeout=20,
    ).stdout
    assert 'RCLONE_AUTH_KEY="id,secret"' in printed.splitlines()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: apt-get install shellcheck")
def test_shellcheck_finds_nothing_in_the_program() -> None:
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def store() -> dict[str, Any]:
    spec: dict[str, Any] = one(build("overlays/kind"), "Deployment", "s3")["spec"]["template"]["spec"]
    return spec


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number of cores or bytes."""
    units = {"m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
    match = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(text))
    assert match, text
    return int(match[1]) * units.get(match[2], 1.0)
