"""Connections that the network policies allow, as Kubernetes would apply them, and the ingress."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.infra.manifests import COMPONENTS, build, one, pods, selects
from viewfinder.service.http.guard import is_open_path

VIEWFINDER = {"app.kubernetes.io/part-of": "viewfinder"}
PODS: dict[str, tuple[str, dict[str, str]]] = {
    "replica": ("viewfinder", {**VIEWFINDER, "app.kubernetes.io/component": "service", "ray.io/node-type": "worker"}),
    "service head": (
        "viewfinder",
        {**VIEWFINDER, "app.kubernetes.io/component": "service", "ray.io/node-type": "head"},
    ),
    "index head": ("viewfinder", {**VIEWFINDER, "app.kubernetes.io/component": "index", "ray.io/node-type": "head"}),
    "index worker": (
        "viewfinder",
        {**VIEWFINDER, "app.kubernetes.io/component": "index", "ray.io/node-type": "worker"},
    ),
    "reindex worker": (
        "viewfinder",
        {**VIEWFINDER, "app.kubernetes.io/component": "reindex", "ray.io/node-type": "worker"},
    ),
    "reindex head": (
        "viewfinder",
        {**VIEWFINDER, "app.kubernetes.io/component": "reindex", "ray.io/node-type": "head"},
    ),
    "submitter": ("viewfinder", {**VIEWFINDER, "app.kubernetes.io/component": "submitter"}),
    "snapshots": ("viewfinder", {**VIEWFINDER, "app.kubernetes.io/component": "snapshots"}),
    "solver": ("viewfinder", {"acme.cert-manager.io/http01-solver": "true"}),
    "qdrant": ("viewfinder", {"app.kubernetes.io/name": "qdrant"}),
    "ingress": ("traefik", {}),
    "operator": ("kuberay-system", {}),
    "prometheus": ("monitoring", {}),
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
    "stranger": ("default", {}),
    "store of kind": ("dev-stores", {"app.kubernetes.io/name": "s3"}),
}


@pytest.mark.parametrize("name", ["base", "overlays/dev", "overlays/kind", "overlays/gpu"])
def test_the_pods_of_this_test_are_those_of_the_manifests(name: str) -> None:
    ours = [labels for namespace, labels in PODS.values() if namespace == "viewfinder"]
    for pod in pods(build(name)):
        assert any(labels.items() <= pod.labels.items() for labels in ours), pod.where


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        ("ingress", "replica", 8000, True),
        ("stranger", "replica", 8000, False),
        ("submitter", "replica", 8000, False),
        ("ingress", "replica", 30000, False),
        ("ingress", "replica", 9101, False),
        ("ingress", "replica", 8404, False),
        ("ingress", "service head", 8265, False),
        ("replica", "replica", 30000, True),
        ("service head", "replica", 10002, True),
        ("index worker", "index head", 6379, True),
        ("index worker", "service head", 6379, False),
        ("reindex head", "replica", 30000, False),
        ("operator", "service head", 8265, True),
        ("operator", "index head", 8265, True),
        ("operator", "service head", 10001, False),
        ("submitter", "reindex head", 8265, True),
        ("submitter", "reindex head", 6379, False),
        ("stranger", "reindex head", 8265, False),
        ("replica", "qdrant", 6333, True),
        ("index worker", "qdrant", 6334, True),
        ("replica", "qdrant", 6335, False),
        ("submitter", "qdrant", 6333, False),
        ("stranger", "qdrant", 6333, False),
        ("qdrant", "qdrant", 6335, True),
        ("qdrant", "replica", 8000, False),
        ("prometheus", "replica", 8080, True),
        ("prometheus", "replica", 8000, False),
        ("prometheus", "qdrant", 6333, True),
        ("prometheus", "qdrant", 6335, False),
        ("replica", "dns", 53, True),
        ("submitter", "dns", 53, True),
        ("replica", "stranger", 80, False),
        ("snapshots", "qdrant", 6333, True),
        ("snapshots", "qdrant", 6335, False),
        ("snapshots", "replica", 8000, False),
        ("snapshots", "dns", 53, True),
        ("ingress", "solver", 8089, True),
        ("stranger", "solver", 8089, False),
    ],
)
def test_connections_that_are_allowed(source: str, target: str, port: int, allowed: bool) -> None:
    assert reaches(build("overlays/gpu", *COMPONENTS), PODS[source], PODS[target], port) is allowed


@pytest.mark.parametrize(("overlay", "allowed"), [("overlays/kind", True), ("overlays/gpu", False)])
def test_only_on_kind_jobs_and_replicas_reach_a_store_in_the_cluster(overlay: str, allowed: bool) -> None:
    for source in ("index head", "index worker", "reindex worker", "replica"):
        assert reaches(build(overlay), PODS[source], PODS["store of kind"], 9000) is allowed


def test_without_policies_everything_is_reachable() -> None:
    base = build("base")
    without = [each for each in base if each["kind"] != "NetworkPolicy"]
    assert reaches(without, PODS["stranger"], PODS["qdrant"], 6335)


def test_replicas_cannot_fetch_from_private_networks() -> None:
    base = build("base")
    blocks = [
        target["ipBlock"]
        for rule in one(base, "NetworkPolicy", "outside")["spec"]["egress"]
        for target in rule["to"]
        if "ipBlock" in target
    ]
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"):
        assert network in blocks[0]["except"]
    for policy in base:
        if policy["kind"] == "NetworkPolicy" and policy["metadata"]["name"] != "outside":
            wide = [to for rule in policy["spec"].get("egress", ()) for to in rule["to"] if "ipBlock" in to]
            if wide and selects(policy["spec"]["podSelector"], PODS["replica"][1]):
                # NodeLocal DNS.
                assert (policy["metadata"]["name"], wide) == ("names", [{"ipBlock": {"cidr": "169.254.20.10/32"}}])
                assert {each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]} == {53}


def test_a_load_balancer_sends_requests_to_the_pods_that_answer_them() -> None:
    built = build("overlays/gpu", *COMPONENTS)
    ingress = one(built, "Ingress", "viewfinder-alb")
    values = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert values["target-type"] == "ip"
    assert is_open_path(values["healthcheck-path"])
    service = one(built, "RayService", "viewfinder")["spec"]
    serve = yaml.safe_load(service["serveConfigV2"])
    idle_s = int(values["load-balancer-attributes"].rpartition("=")[2])
    (application,) = serve["applications"]
    assert application["args"]["request_timeout_s"] < idle_s < serve["http_options"]["keep_alive_timeout_s"]
    ((path,),) = [rule["http"]["paths"] for rule in ingress["spec"]["rules"]]
    assert path["backend"]["service"] == {"name": "viewfinder-serve-svc", "port": {"number": 8000}}
    policy = one(built, "NetworkPolicy", "load-balancer")["spec"]
    assert [name for name, (_, labels) in PODS.items() if selects(policy["podSelector"], labels)] == ["replica"]
    ((rule,),) = [policy["ingress"]]
    assert rule["ports"] == [{"port": 8000}]
    assert set(rule["from"][0]) == {"ipBlock"}, "it has no label"


def test_the_ingress_leads_over_tls_to_the_service_that_kuberay_makes() -> None:
    built = build("overlays/gpu", *COMPONENTS)
    spec = one(built, "Ingress", "viewfinder")["spec"]
    ((path,),) = [rule["http"]["paths"] for rule in spec["rules"]]
    name = one(built, "RayService", "viewfinder")["metadata"]["name"]
    assert path["backend"]["service"] == {"name": f"{name}-serve-svc", "port": {"number": 8000}}
    assert [rule["host"] for rule in spec["rules"]] == spec["tls"][0]["hosts"]
    # Requests come from the same namespace in both policies.
    (searches,) = one(built, "NetworkPolicy", "searches")["spec"]["ingress"][0]["from"]
    (certificates,) = one(built, "NetworkPolicy", "certificates")["spec"]["ingress"][0]["from"]
    assert searches == certificates


def reaches(
    documents: list[dict[str, Any]], source: tuple[str, dict[str, str]], target: tuple[str, dict[str, str]], port: int
) -> bool:
    """Return True if network policies allow a connection: as in Kubernetes, both ends must allow it."""
    return _allows(documents, "Egress", source, target, port) and _allows(documents, "Ingress", target, source, port)


def _allows(
    documents: list[dict[str, Any]],
    direction: str,
    subject: tuple[str, dict[str, str]],
    peer: tuple[str, dict[str, str]],
    port: int,
) -> bool:
    policies = [
        each
        for each in documents
        if each["kind"] == "NetworkPolicy"
        and each["metadata"]["namespace"] == subject[0]
        and direction in each["spec"]["policyTypes"]
        and selects(each["spec"]["podSelector"], subject[1])
    ]
    rules = [rule for policy in policies for rule in policy["spec"].get(direction.lower(), ())]
    side = "from" if direction == "Ingress" else "to"
    return not policies or any(
        ("ports" not in rule or port in [each["port"] for each in rule["ports"]])
        and any(_is_peer(each, subject[0], peer) for each in rule[side])
        for rule in rules
    )


def _is_peer(rule: Mapping[str, Any], namespace: str, peer: tuple[str, dict[str, str]]) -> bool:
    if "ipBlock" in rule:
        return False  # addresses outside the cluster
    if "namespaceSelector" in rule:
        fits = selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer[0]})
    else:
        fits = peer[0] == namespace
    return fits and selects(rule.get("podSelector", {}), peer[1])
