"""The values for Qdrant's chart, and the nightly snapshots."""

import json
import os
import runpy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.infra.manifests import KUBERNETES, build, one
from viewfinder.testing.openapi import Specification


def test_qdrant_requires_keys_and_runs_without_privileges() -> None:
    values = yaml.safe_load((KUBERNETES / "qdrant/values.yaml").read_text())
    assert values["config"]["service"]["jwt_rbac"] is True
    assert {each["name"] for each in values["env"]} >= {"QDRANT__SERVICE__API_KEY"}
    assert all("value" not in each for each in values["env"]), "secrets by reference only"
    context = values["containerSecurityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["runAsNonRoot"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert values["updateVolumeFsOwnership"] is False, "the chart does this as root"


def test_qdrant_survives_the_loss_of_a_node() -> None:
    values = yaml.safe_load((KUBERNETES / "qdrant/values.yaml").read_text())
    assert values["replicaCount"] >= 3
    assert values["config"]["cluster"]["enabled"] is True
    assert values["config"]["storage"]["collection"]["replication_factor"] >= 2
    assert values["podDisruptionBudget"] == {"enabled": True, "maxUnavailable": 1}
    assert values["config"]["storage"]["snapshots_config"]["snapshots_storage"] == "s3"


def test_the_address_of_qdrant_is_that_of_the_release_in_the_readme() -> None:
    readme = (KUBERNETES / "README.md").read_text()
    assert "helm -n viewfinder upgrade --install qdrant qdrant/qdrant " in readme
    (settings,) = [each for each in build("base") if each["kind"] == "ConfigMap"]
    assert settings["data"]["VIEWFINDER_QDRANT_URL"] == "http://qdrant:6333"


def test_every_node_makes_a_snapshot() -> None:
    (container,) = snapshots_pod()["containers"]
    nodes = [each.partition("=")[2] for each in container["args"] if each.startswith("--node=")]
    values = yaml.safe_load((KUBERNETES / "qdrant/values.yaml").read_text())
    # The names that the chart's headless Service gives the pods of the release `qdrant`.
    assert nodes == [f"http://qdrant-{number}.qdrant-headless:6333" for number in range(values["replicaCount"])]


def test_the_schedule_mounts_the_snapshot_program() -> None:
    pod = snapshots_pod()
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each.get("readOnly")]
    (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
    built = build("overlays/gpu")
    (map,) = [each for each in built if each["metadata"]["name"] == volume["configMap"]["name"]]
    assert container["command"] == ["python", f"{mount['mountPath']}/{next(iter(map['data']))}"]


class Nodes:
    """A double of two Qdrant nodes that keep snapshots in S3: each lists the snapshots of both."""

    def __init__(self, *, refuse: str = "") -> None:
        self.kept: dict[str, list[str]] = {
            name: [] for name in ("images__control", "images__m__f00d__0001", "images__m__f00d__0002")
        }
        self.requests: list[str] = []
        self._refuse = refuse
        self._made = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = f"{request.method} {request.url.path}"
        self.requests.append(f"{request.url.host} {asked}")
        if request.headers.get("api-key") != "the key":
            return httpx.Response(401)
        if self._refuse and self._refuse in asked:
            return httpx.Response(403, json={"status": {"error": "Forbidden"}})
        _, _, collection, *rest = [*request.url.path.split("/"), ""]
        result: Any = True
        if asked == "GET /aliases":
            result = {"aliases": [{"alias_name": "images", "collection_name": "images__m__f00d__0002"}]}
        elif rest[0] == "exists":
            result = {"exists": collection in self.kept}
        elif request.method == "POST":
            self._made += 1
            peer = 7 if request.url.host == "one" else 9
            name = f"{collection}-{peer}-2026-11-21-05-30-{self._made:02}.snapshot"
            self.kept[collection].append(name)
            result = {"name": name, "size": 1}
        elif request.method == "DELETE":
            self.kept[collection].remove(rest[1])
        else:
            result = [{"name": name, "size": 1} for name in self.kept[collection]]
        return httpx.Response(200, json={"result": result, "status": "ok", "time": 0})


def run(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, *flags: str, index: str = "images") -> int:
    monkeypatch.setenv("VIEWFINDER_QDRANT_API_KEY", "the key")
    monkeypatch.setenv("VIEWFINDER_INDEX", index)
    main = runpy.run_path(str(KUBERNETES / "components/snapshots/snapshots.py"))["main"]
    status: int = main(["--node", "http://one", "--node", "http://two", *flags], httpx.MockTransport(nodes))
    return status


def test_every_node_keeps_the_newest_snapshots_of_the_control_and_the_live_collection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = Nodes()
    for _ in range(4):
        assert run(nodes, monkeypatch, "--keep", "2") == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["node"], each["collection"]) for each in printed[:4]] == [
        ("http://one", "images__control"),
        ("http://one", "images__m__f00d__0002"),
        ("http://two", "images__control"),
        ("http://two", "images__m__f00d__0002"),
    ]
    for collection in ("images__control", "images__m__f00d__0002"):
        names = [each["name"] for each in printed if each["collection"] == collection]
        assert sorted(nodes.kept[collection]) == sorted(names[-4:]), "the newest two of each of two nodes"
    assert nodes.kept["images__m__f00d__0001"] == [], "only the live collection needs snapshots"


def test_requests_for_snapshots_follow_qdrants_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (openapi := os.environ.get("QDRANT_OPENAPI")):
        pytest.skip("set QDRANT_OPENAPI to Qdrant's openapi.json")
    specification = Specification(json.loads(Path(openapi).read_text()))
    nodes = Nodes()
    for _ in range(3):
        assert run(nodes, monkeypatch, "--keep", "1") == 0
    asked = {tuple(each.split(" ")[1:]) for each in nodes.requests}
    assert {method for method, _ in asked} == {"GET", "POST", "DELETE"}
    assert [specification.violation(method, path, {}, None) for method, path in asked] == [None] * len(asked)


@pytest.mark.parametrize(
    ("refuse", "index", "said"), [("POST", "images", "403"), ("", "photos", "there is no alias 'photos'")]
)
def test_a_failed_snapshot_is_reported_in_one_line(
    refuse: str, index: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Nodes(refuse=refuse), monkeypatch, index=index) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error:")]
    assert said in line
    assert f"index {index!r} on http://one" in line


def snapshots_pod() -> dict[str, Any]:
    pod: dict[str, Any] = one(build("overlays/gpu"), "CronJob", "snapshots")["spec"]["jobTemplate"]["spec"]["template"]
    spec: dict[str, Any] = pod["spec"]
    return spec
