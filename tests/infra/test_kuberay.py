"""The manifests in KubeRay's own code: its validation, and the Services and Pods that it builds from them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import BUILDS, KUBERNETES, ROOT, build, one

pytestmark = pytest.mark.timeout(1500)  # building the program included

OPERATOR = Path(__file__).with_name("kuberay")
# The labels by which the operator selects the pods that it makes.
ITS_LABELS = {"app.kubernetes.io/name", "app.kubernetes.io/created-by"}


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in `kuberay/`; building it takes minutes the first time."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go: https://go.dev/doc/install")
    program = tmp_path_factory.mktemp("kuberay") / "operator"
    done = subprocess.run(
        [go, "build", "-mod=readonly", "-o", program, "."], cwd=OPERATOR, capture_output=True, text=True, timeout=1200
    )
    if "dial tcp" in done.stderr or "no such host" in done.stderr:
        pytest.skip(f"the modules of KubeRay cannot be fetched: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return program


def made_by(operator: Path, documents: list[dict[str, Any]]) -> dict[str, Any]:
    environment = {"PATH": os.environ["PATH"]}
    text = yaml.safe_dump_all(documents)
    done = subprocess.run([operator], input=text, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def selected(service: Mapping[str, Any], pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pod for pod in pods if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]


def ports(pod: Mapping[str, Any]) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    }


@pytest.mark.full
def test_the_operator_accepts_the_manifests_and_its_services_lead_to_pods(
    operator: Path, documents: list[dict[str, Any]]
) -> None:
    # Regression: no port of the head was named `serve`, so no Service was made for searches. A label of ours replaced
    # the one by which the head's Service selects, so that it had no endpoints.
    made = made_by(operator, documents)
    assert made["errors"] == []
    services = {service["metadata"]["name"]: service for service in made["services"]}
    assert {"viewfinder-serve-svc", "viewfinder-head-svc", "reindex-head-svc"} <= set(services)
    for name, service in services.items():
        reached = selected(service, made["pods"])
        assert reached, f"{name} has no endpoints"
        for port in service["spec"]["ports"]:
            assert all(ports(pod)[port["name"]] == port["port"] for pod in reached), (name, port)
    serving = selected(services["viewfinder-serve-svc"], made["pods"])
    assert {pod["metadata"]["labels"]["ray.io/node-type"] for pod in serving} == {"worker"}


@pytest.mark.full
def test_every_pod_of_ray_is_scraped_by_prometheus_operator(operator: Path) -> None:
    made = made_by(operator, build(*BUILDS[-1]))
    monitors = {each["metadata"]["name"]: each["spec"] for each in made["monitors"]}
    selector = monitors["ray"]["selector"]
    assert selector["matchExpressions"] == [{"key": "ray.io/node-type", "operator": "Exists"}]
    (endpoint,) = monitors["ray"]["podMetricsEndpoints"]
    assert len(made["pods"]) >= 6
    for pod in made["pods"]:
        assert selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert "ray.io/node-type" in pod["metadata"]["labels"]
        assert ports(pod)[endpoint["port"]] == 8080
    (of_qdrant,) = monitors["qdrant"]["podMetricsEndpoints"]
    assert of_qdrant["authorization"]["credentials"] == {"name": "qdrant-tokens", "key": "service"}


@pytest.mark.full
def test_the_command_for_the_alerts_makes_a_rule_of_prometheus_operator(operator: Path, tmp_path: Path) -> None:
    text = (KUBERNETES / "components/monitoring/kustomization.yaml").read_text()
    command = "".join(re.findall(r"^#  ( .*\n)", text, re.MULTILINE))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\nexec cat\n")
    kubectl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    (rule,) = made_by(operator, [yaml.safe_load(done.stdout)])["rules"]
    alerts = yaml.safe_load((ROOT / "infra/grafana/alerts.yaml").read_text())
    names = [[each["alert"] for each in group["rules"]] for group in alerts["groups"]]
    assert [[each["alert"] for each in group["rules"]] for group in rule["spec"]["groups"]] == names


@pytest.mark.full
def test_the_operator_refuses_a_service_whose_head_has_no_port_for_it(operator: Path) -> None:
    documents = build("base")
    head = one(documents, "RayService", "viewfinder")["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    head["containers"][0]["ports"] = [each for each in head["containers"][0]["ports"] if each["name"] != "serve"]
    (error,) = made_by(operator, documents)["errors"]
    assert "port named 'serve'" in error


@pytest.mark.full
def test_with_redis_the_head_restarts_with_its_state_and_workers_wait_for_it(operator: Path) -> None:
    made = made_by(operator, build("overlays/gpu", "head-fault-tolerance"))
    pods = [pod for pod in made["pods"] if pod["metadata"]["labels"]["ray.io/cluster"].startswith("viewfinder")]
    variables = [{each["name"] for each in pod["spec"]["containers"][0]["env"]} for pod in pods]
    assert {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} <= variables[0]
    assert all("RAY_gcs_rpc_server_reconnect_timeout_s" in each for each in variables[1:])


@pytest.mark.full
def test_pods_that_the_operator_makes_mount_the_shared_weights_and_replicas_have_fluent_bit(
    operator: Path,
) -> None:
    made = made_by(operator, build(*BUILDS[-1]))
    assert len(made["pods"]) >= 8
    for pod in made["pods"]:
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "models"]
        assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in pod["spec"]["containers"][0][
            "volumeMounts"
        ]
        labels = pod["metadata"]["labels"]
        replica = labels["app.kubernetes.io/component"] == "service" and labels["ray.io/node-type"] == "worker"
        assert ("logs" in {each["name"] for each in pod["spec"]["containers"]}) is replica


def test_the_head_of_the_service_names_the_port_of_searches(documents: list[dict[str, Any]]) -> None:
    cluster = one(documents, "RayService", "viewfinder")["spec"]["rayClusterConfig"]
    named = {each["name"]: each["containerPort"] for each in ports_of(cluster["headGroupSpec"])}
    assert named["serve"] == 8000
    assert all({"name": "serve", "containerPort": 8000} in ports_of(group) for group in cluster["workerGroupSpecs"])


def test_no_pod_replaces_the_labels_by_which_the_operator_selects(documents: list[dict[str, Any]]) -> None:
    groups = [
        group for cluster in clusters(documents) for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    ]
    assert len(groups) >= 6
    for group in groups:
        assert not ITS_LABELS & set(group["template"]["metadata"]["labels"])


def ports_of(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = group["template"]["spec"]["containers"][0]["ports"]
    return found


def clusters(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}
    specs = [(each["kind"], each["spec"]) for each in documents if each["apiVersion"].startswith("ray.io/")]
    return [spec[places[kind]] if kind in places else spec for kind, spec in specs]
