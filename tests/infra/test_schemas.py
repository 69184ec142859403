"""The manifests as applied follow the schemas of Kubernetes and KubeRay's definitions."""

import copy
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.infra.manifests import one

pytestmark = pytest.mark.slow

RAY_KINDS = ("RayCluster", "RayJob", "RayService")


@pytest.mark.parametrize("release", ["1.33", "newest"])
def test_kubernetes_kinds_follow_the_official_schemas(documents: list[dict[str, Any]], release: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    version = validate.latest_version() if release == "newest" else release
    native = [each for each in documents if each["kind"] not in (*RAY_KINDS, "PodMonitor")]
    assert {each["kind"] for each in native} >= {"CronJob", "NetworkPolicy", "ConfigMap", "ServiceAccount", "Namespace"}
    assert len([each for each in native if each["kind"] == "CronJob"]) >= 2
    for each in native:
        validate.validate(each, version, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "concurencyPolicy"], "Forbid"),
        (["spec", "jobTemplate", "spec", "template", "spec", "containers", 0, "resources", "limit"], {}),
        (["spec", "jobTemplate", "spec", "backoffLimit"], "none"),
    ],
)
def test_a_mistake_in_a_cron_job_would_be_noticed(base: list[dict[str, Any]], path: list[Any], value: object) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    document = changed(one(base, "CronJob", "reindex"), path, value)
    with pytest.raises(validate.ValidationError):
        validate.validate(document, validate.latest_version(), strict=True)


def test_ray_kinds_follow_kuberays_definitions(documents: list[dict[str, Any]]) -> None:
    kinds = [each for each in documents if each["kind"] in RAY_KINDS]
    assert {each["kind"] for each in kinds} == set(RAY_KINDS)
    for each in kinds:
        check_against_definition(each)


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("RayService", "viewfinder", ["spec", "upgradeStrategi"], {}),
        ("RayService", "viewfinder", ["spec", "rayClusterConfig", "headGroupSpec", "replicas"], 1),
        ("RayJob", "index", ["spec", "ttlSecondsAfterFinished"], "ten"),
        ("RayJob", "index", ["spec", "rayClusterSpec", "authOptions", "mode"], "tokens"),
        ("RayCluster", "reindex", ["spec", "workerGroupSpecs", 0, "template", "spec", "toleration"], []),
        ("RayCluster", "reindex", ["spec", "upgradeStrategy", "type"], "NewCluster"),
    ],
)
def test_a_mistake_in_a_ray_kind_would_be_noticed(
    base: list[dict[str, Any]], kind: str, name: str, path: list[Any], value: object
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_against_definition(changed(one(base, kind, name), path, value))


def changed(document: Mapping[str, Any], path: list[Any], value: object) -> dict[str, Any]:
    result = copy.deepcopy(dict(document))
    place: Any = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return result


def check_against_definition(document: Mapping[str, Any]) -> None:
    """Validate against KubeRay's CRD; unknown fields are errors (the API server drops them silently)."""
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("set KUBERAY_CRDS to a folder with KubeRay's CRDs (ray.io_rayservices.yaml, ...)")
    schema = _definition(Path(folder) / f"ray.io_{document['kind'].lower()}s.yaml", document["apiVersion"])
    jsonschema.Draft202012Validator(schema).validate(document)


@functools.cache
def _definition(path: Path, api_version: str) -> dict[str, Any]:
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    group = definition["spec"]["group"]
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if f"{group}/{version['name']}" == api_version
    ]
    close(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    closed: dict[str, Any] = schema
    return closed


def close(schema: dict[str, Any]) -> None:
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if schema.get("type") == "object" and "properties" in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for each in schema["properties"].values():
            close(each)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            close(schema[key])
