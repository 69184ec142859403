"""Shared by the tests of deployment files: the manifests as applied, and the programs that read their variables."""

import copy
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from viewfinder._version import __version__
from viewfinder.environment import PREFIX, variable
from viewfinder.errors import ConfigurationError
from viewfinder.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
# No overlay includes these.
COMPONENTS = ("ingress", "load-balancer", "monitoring", "logs", "key-filters", "head-fault-tolerance", "model-cache")
BUILDS = [("base",), ("overlays/dev",), ("overlays/kind",), ("overlays/gpu",), ("overlays/gpu", *COMPONENTS)]
VERSION = __version__

# Variables of other programs, and the file that reads them.
OTHERS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "ray/serve/_private/constants.py",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "ray/serve/_private/constants.py",
    "RAY_AUTH_MODE": "ray/_private/authentication_test_utils.py",
    "RAY_AUTH_TOKEN": "ray/_private/authentication_test_utils.py",
    "RAY_AUTH_TOKEN_PATH": "ray/_private/authentication_test_utils.py",
    "RAY_ROTATION_MAX_BYTES": "ray/_private/node.py",
    "RAY_ROTATION_BACKUP_COUNT": "ray/_private/node.py",
    "RAY_USAGE_STATS_ENABLED": "ray/_common/usage/usage_constants.py",
    "HF_HOME": "huggingface_hub/constants.py",
    "HF_HUB_OFFLINE": "huggingface_hub/constants.py",
    "AWS_ACCESS_KEY_ID": "botocore/credentials.py",
    "AWS_SECRET_ACCESS_KEY": "botocore/credentials.py",
    "AWS_SESSION_TOKEN": "botocore/credentials.py",
    "AWS_SHARED_CREDENTIALS_FILE": "botocore/configprovider.py",
    "AWS_DEFAULT_REGION": "botocore/configprovider.py",
}
SECRET_NAME = re.compile(r"KEYS?(_ID)?$|TOKEN$|SECRET|PASSWORD")


def tool(name: str, package: str) -> str:
    """Path of a program from the development tools; the test skips where it is missing."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install {package}")
    return found


def locked(package: str) -> str:
    """The version of a package in the lock."""
    match = re.search(rf"^{re.escape(package)}==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert match, package
    return match[1]


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Errors: variables that no program reads, and settings with a wrong value."""
    variables = set(map(variable, Settings.model_fields))
    errors = []
    settings = {}
    for name, value in environment.items():
        if name.startswith(PREFIX):
            settings[name] = value
        elif name not in variables:
            home = OTHERS.get(name)
            if home is None or not re.search(rf"\b{name}\b", _source(home)):
                errors.append(f"{name}: nothing reads it")
    try:
        Settings.load(settings)
    except ConfigurationError as error:
        errors.append(str(error))
    return errors


@functools.cache
def _source(path: str) -> str:
    package, _, rest = path.partition("/")
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    return (Path(spec.origin).parent / rest).read_text()


def build(name: str, *components: str) -> list[dict[str, Any]]:
    """The documents that `kubectl apply -k infra/kubernetes/NAME` would send, with additional components."""
    return copy.deepcopy(_built(name, components))


@functools.cache
def _built(name: str, components: tuple[str, ...]) -> list[dict[str, Any]]:
    overlay: dict[str, Any] = {"resources": [name], "components": [f"components/{each}" for each in components]}
    if components:
        overlay["namespace"] = "viewfinder"
    return kustomized(overlay, KUBERNETES)


def kustomized(overlay: Mapping[str, Any], place: Path) -> list[dict[str, Any]]:
    """The documents that Kustomize makes of an overlay with relative paths, as if it lay in the directory `place`."""
    kustomize = shutil.which("kustomize")
    command = [kustomize, "build"] if kustomize else [tool("kubectl", "kubectl, or kustomize"), "kustomize"]
    with tempfile.TemporaryDirectory(prefix="vf-") as directory:
        # Kustomize accepts only relative paths without symbolic links.
        there = os.path.relpath(place.resolve(), Path(directory).resolve())
        moved = {
            name: [os.path.normpath(f"{there}/{each}") for each in overlay.get(name, [])]
            for name in ("resources", "components")
        }
        Path(directory, "kustomization.yaml").write_text(yaml.safe_dump({**overlay, **moved}))
        environment = {"PATH": os.environ["PATH"], "HOME": directory}
        done = subprocess.run([*command, directory], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    # libyaml: the pure Python loader takes a second for each build.
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod template and its place in the documents; `ray` is "head" or "worker" in a Ray cluster."""

    where: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    ray: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def pods(documents: list[dict[str, Any]]) -> Iterator[Pod]:
    """Every pod template, with the labels that KubeRay adds."""
    for document in documents:
        where = f"{document['kind']}/{document['metadata']['name']}"
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            yield _pod(where, spec["jobTemplate"]["spec"]["template"])
        if document["kind"] == "RayJob":
            yield _pod(f"{where}/submitter", spec["submitterPodTemplate"])
        if (cluster := ray_cluster(document)) is not None:
            yield _pod(f"{where}/head", cluster["headGroupSpec"]["template"], "head")
            for group in cluster["workerGroupSpecs"]:
                yield _pod(f"{where}/{group['groupName']}", group["template"], "worker")


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return True if a label selector matches a pod with these labels."""
    matches = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        matches = matches and labels.get(expression["key"]) in expression["values"]
    return matches


def ray_cluster(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The Ray cluster that a document describes, if any."""
    place = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    if document["kind"] not in place:
        return None
    key = place[document["kind"]]
    cluster: dict[str, Any] = document["spec"] if key is None else document["spec"][key]
    return cluster


def _pod(where: str, template: Mapping[str, Any], ray: str | None = None) -> Pod:
    labels = dict(template["metadata"]["labels"])
    if ray is not None:
        labels["ray.io/node-type"] = ray
    return Pod(where, labels, template["spec"], ray, template["metadata"].get("annotations", {}))
