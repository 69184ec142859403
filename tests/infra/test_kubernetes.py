"""The manifests as they would be applied: references, privileges, versions, schedules."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.arguments import parsed
from tests.infra.manifests import (
    BUILDS,
    COMPONENTS,
    INFRA,
    KUBERNETES,
    SECRET_NAME,
    VERSION,
    Pod,
    build,
    locked,
    one,
    pods,
    ray_cluster,
    selects,
    unknown_variables,
)
from viewfinder.service.http.guard import is_open_path
from viewfinder.settings import Settings

pytestmark = pytest.mark.slow

WRITABLE = {"/tmp", "/data"}


def test_every_component_is_built_by_a_test_and_listed_in_the_gpu_overlay() -> None:
    found = {path.parent.name for path in (KUBERNETES / "components").glob("*/kustomization.yaml")}
    overlay = (KUBERNETES / "overlays/gpu/kustomization.yaml").read_text()
    named = re.findall(r"^  (# )?- \.\./\.\./components/(\S+)$", overlay, re.MULTILINE)
    assert found == {name for _, name in named} | {"model-cache"}
    assert {name for comment, name in named if comment} == set(COMPONENTS) - {"model-cache"}
    service = one(build(*BUILDS[-1]), "RayService", "viewfinder")["spec"]["rayClusterConfig"]
    assert service["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"


# -- Pods -----------------------------------------------------------------------------------------------------------


def test_containers_run_without_privileges(documents: list[dict[str, Any]]) -> None:
    found = list(pods(documents))
    assert len(found) >= 8
    assert [weakness for pod in found for weakness in weaknesses(pod)] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda spec: spec["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
            "root file system is writable",
        ),
        (lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"), "keeps capabilities"),
        (lambda spec: spec["securityContext"].update(runAsUser=0), "may run as root"),
        (lambda spec: spec["containers"][0]["resources"].pop("limits"), "no limit of memory"),
        (lambda spec: spec["containers"][0].update(image="viewfinder:latest"), "is not pinned"),
        (lambda spec: spec["containers"][0]["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}), "secret"),
        (lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "hostPath"),
        (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
    ],
)
def test_a_privilege_would_be_noticed(base: list[dict[str, Any]], change: Any, problem: str) -> None:
    pod = next(each for each in pods(base) if each.where == "RayService/viewfinder/replicas")
    spec = copy.deepcopy(dict(pod.spec))
    change(spec)
    assert any(problem in each for each in weaknesses(Pod(pod.where, pod.labels, spec, pod.ray)))


def test_every_environment_variable_is_read_by_a_program(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{"digest": "0" * 64, "filter": {"width": {"gte": 8}}}]}))
    for pod in pods(documents):
        given = environment(pod, documents)
        if file := given.get("VIEWFINDER_API_KEYS_FILE"):
            (volume,) = (each for each in pod.spec["volumes"] if each["name"] == "keys")
            assert [f"/keys/{item['path']}" for item in volume["secret"]["items"]] == [file]
            assert {"name": "keys", "mountPath": "/keys", "readOnly": True} in pod.containers[0]["volumeMounts"]
            given["VIEWFINDER_API_KEYS_FILE"] = str(keys)
        assert unknown_variables(given) == [], pod.where


def test_a_misspelled_variable_would_be_noticed() -> None:
    assert "did you mean VIEWFINDER_QDRANT_URL" in unknown_variables({"VIEWFINDER_QDRANT_URI": "x"})[0]
    assert unknown_variables({"HF_HUB_OFLINE": "1"}) == ["HF_HUB_OFLINE: nothing reads it"]
    assert "VIEWFINDER_DEVICE" in unknown_variables({"VIEWFINDER_DEVICE": "gpu"})[0]


def test_pods_refer_to_the_settings_by_their_hashed_name(documents: list[dict[str, Any]]) -> None:
    maps = [each["metadata"]["name"] for each in documents if each["kind"] == "ConfigMap"]
    (settings,) = [name for name in maps if name.startswith("settings-")]
    named = {
        source["configMapRef"]["name"]
        for pod in pods(documents)
        for container in pod.containers
        for source in container.get("envFrom", ())
    }
    assert named == {settings}


def test_the_readme_creates_every_secret(documents: list[dict[str, Any]]) -> None:
    readme = (KUBERNETES / "README.md").read_text()
    assert not [each for each in documents if each["kind"] == "Secret"]
    references = {
        (each["valueFrom"]["secretKeyRef"]["name"], each["valueFrom"]["secretKeyRef"]["key"])
        for pod in pods(documents)
        for container in pod.containers
        for each in container.get("env", ())
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    references |= {(cluster["authOptions"]["secretName"], "auth_token") for cluster in clusters(documents)}
    values = yaml.safe_load((KUBERNETES / "qdrant/values.yaml").read_text())
    references |= {tuple(each["valueFrom"]["secretKeyRef"].values()) for each in values["env"]}
    for name, key in references:
        assert f"secret {name} " in readme, name
        assert f"{key}=" in readme, key
        assert f"| `{name}`" in readme, name


def test_probes_ask_paths_that_need_no_key(documents: list[dict[str, Any]]) -> None:
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    from ray.dashboard.http_server_agent import __file__ as agent

    service = {probe["httpGet"]["port"]: probe["httpGet"]["path"] for probe in probes(documents, "readinessProbe")}
    assert service == {8000: "/readyz", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT: "/api/healthz"}
    assert is_open_path(service[8000])
    # Ray does not ask for its token on this path.
    assert '"/api/healthz"' in Path(agent).read_text()
    # A worker without a replica has no proxy: a liveness probe on it would kill pods that wait for one.
    assert {probe["httpGet"]["port"] for probe in probes(documents, "livenessProbe")} == {
        DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    }


# -- Versions -------------------------------------------------------------------------------------------------------


def test_versions_are_those_of_the_lock(documents: list[dict[str, Any]]) -> None:
    assert {cluster["rayVersion"] for cluster in clusters(documents)} == {locked("ray")}
    values = yaml.safe_load((KUBERNETES / "qdrant/values.yaml").read_text())
    qdrant = values["image"]["tag"].removeprefix("v")
    assert qdrant.rpartition(".")[0] == locked("qdrant-client").rpartition(".")[0]
    for file in ("README.md", "qdrant/values.yaml", "qdrant/values-dev.yaml"):
        assert f"--version {qdrant}" in (KUBERNETES / file).read_text(), file
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    assert compose["services"]["qdrant"]["image"] == f"qdrant/qdrant:v{qdrant}-unprivileged"


# -- The service ----------------------------------------------------------------------------------------------------


def test_the_service_has_the_configuration_of_the_serve_file(documents: list[dict[str, Any]]) -> None:
    from ray.serve.schema import ServeDeploySchema

    text = one(documents, "RayService", "viewfinder")["spec"]["serveConfigV2"]
    here, there = yaml.safe_load(text), yaml.safe_load((INFRA / "serve_config.yaml").read_text())
    ServeDeploySchema.model_validate(here)
    assert {name: here[name] for name in ("proxy_location", "http_options")} == {
        name: there[name] for name in ("proxy_location", "http_options")
    }
    (application,), (other,) = here["applications"], there["applications"]
    for name in ("name", "route_prefix", "import_path"):
        assert application[name] == other[name]
    settings = Settings.load({}, **application["args"])
    assert here["http_options"]["request_timeout_s"] > settings.request_timeout_s
    assert not settings.api_keys, "Ray's dashboard shows this text"


def test_replicas_and_nodes_grow_together(documents: list[dict[str, Any]]) -> None:
    service = one(documents, "RayService", "viewfinder")["spec"]
    args = yaml.safe_load(service["serveConfigV2"])["applications"][0]["args"]
    cluster = service["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert cluster["enableInTreeAutoscaling"] is True
    # One replica fills one pod, so as many pods as replicas must be able to start.
    assert args["replica_cpus"] == int(limits["cpu"])
    assert args.get("replica_gpus", 0) == int(limits.get("nvidia.com/gpu", 0))
    assert group["minReplicas"] <= args["min_replicas"] <= group["replicas"]
    assert group["maxReplicas"] == args["max_replicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_an_upgrade_causes_no_outage(documents: list[dict[str, Any]]) -> None:
    service = one(documents, "RayService", "viewfinder")["spec"]
    assert service["upgradeStrategy"] == {"type": "NewCluster"}
    args = yaml.safe_load(service["serveConfigV2"])["applications"][0]["args"]
    assert service["rayClusterDeletionDelaySeconds"] > args["request_timeout_s"]
    assert service["excludeHeadPodFromServeSvc"] is True


def test_the_disruption_budget_covers_replicas_and_no_head(base: list[dict[str, Any]]) -> None:
    budget = one(base, "PodDisruptionBudget", "service")["spec"]
    guarded = [pod.where for pod in pods(base) if selects(budget["selector"], pod.labels)]
    assert guarded == ["RayService/viewfinder/replicas"]
    (group,) = one(base, "RayService", "viewfinder")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert budget["maxUnavailable"] < group["minReplicas"]


def test_pods_whose_loss_costs_work_are_not_moved_to_pack_nodes(documents: list[dict[str, Any]]) -> None:
    kept = {pod.where for pod in pods(documents) if pod.annotations.get("karpenter.sh/do-not-disrupt") == "true"}
    every = {pod.where for pod in pods(documents)}
    # Replicas have a disruption budget instead, and snapshots are tried again.
    assert every - kept <= {"RayService/viewfinder/replicas", "CronJob/snapshots"}
    assert "RayService/viewfinder/replicas" in every - kept


# -- Jobs -----------------------------------------------------------------------------------------------------------


def test_the_index_job_removes_its_cluster_when_it_ends(documents: list[dict[str, Any]]) -> None:
    job = one(documents, "RayJob", "index")["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert job["ttlSecondsAfterFinished"] > 0
    program, *arguments = shlex.split(job["entrypoint"])[1:]
    assert in_image(program).is_file()
    assert parsed("index", arguments)["src"]


def test_a_schedule_never_starts_a_second_run_beside_a_first(documents: list[dict[str, Any]]) -> None:
    schedules = [each["spec"] for each in documents if each["kind"] == "CronJob"]
    for cron in schedules:
        assert cron["concurrencyPolicy"] == "Forbid"
        assert cron["timeZone"] == "Etc/UTC"
        assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0
    # At different times, because those that submit jobs share a cluster.
    assert len({cron["schedule"] for cron in schedules}) == len(schedules)


@pytest.mark.parametrize("name", ["update", "reindex"])
def test_a_schedule_submits_its_job_to_a_cluster_that_exists(documents: list[dict[str, Any]], name: str) -> None:
    cron = one(documents, "CronJob", name)["spec"]["jobTemplate"]["spec"]
    (container,) = cron["template"]["spec"]["containers"]
    assert container["command"][:3] == ["ray", "job", "submit"]
    address = container["command"][container["command"].index("--address") + 1]
    cluster = one(documents, "RayCluster", "reindex")
    # The name that KubeRay gives the head's Service.
    assert address == f"http://{cluster['metadata']['name']}-head-svc:8265"
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    # A retried submission would not know that the first job runs.
    assert cron["backoffLimit"] == 0


def test_one_schedule_indexes_new_objects_and_the_other_follows_the_model(documents: list[dict[str, Any]]) -> None:
    update = parsed("index", program(documents, "update", "jobs/index.py"))
    first = parsed("index", shlex.split(one(documents, "RayJob", "index")["spec"]["entrypoint"])[2:])
    assert update["prune"]
    assert update["model"] is None, "it uses the model of the live index, whatever the settings say"
    assert (update["src"], update["captions"]) == (first["src"], first["captions"])
    assert parsed("reindex", program(documents, "reindex", "jobs/reindex.py"))["when_model_changed"]


def program(documents: list[dict[str, Any]], cron: str, expected: str) -> list[str]:
    """The arguments that a schedule passes to the program."""
    template = one(documents, "CronJob", cron)["spec"]["jobTemplate"]["spec"]["template"]
    python, path, *arguments = template["spec"]["containers"][0]["args"]
    assert (python, path) == ("python", f"/app/{expected}")
    assert in_image(path).is_file()
    return arguments


def test_jobs_on_gpus_have_one_encoder_for_each_gpu_that_can_start() -> None:
    documents = build("overlays/gpu")
    for kind, name in (("RayJob", "index"), ("RayCluster", "reindex")):
        cluster = ray_cluster(one(documents, kind, name))
        assert cluster is not None
        (group,) = [each for each in cluster["workerGroupSpecs"] if each["groupName"] == "gpu"]
        pod = next(each for each in pods(documents) if each.where == f"{kind}/{name}/gpu")
        settings = environment(pod, documents)
        assert int(settings["VIEWFINDER_ENCODERS"]) == group["maxReplicas"]
        assert settings["VIEWFINDER_DEVICE"] == "cuda"
        assert pod.containers[0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


# -- The shared volume of weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/gpu"])
def test_every_pod_of_ray_reads_weights_from_the_volume_and_one_job_writes_them(overlay: str) -> None:
    documents = build(overlay, "model-cache")
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert "HF_HOME=/models " in dockerfile
    claim = one(documents, "PersistentVolumeClaim", "models")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    rays = [pod for pod in pods(documents) if pod.ray]
    assert len(rays) == {"overlays/gpu": 8}.get(overlay, 6)
    for pod in rays:
        (volume,) = [each for each in pod.spec["volumes"] if each["name"] == "models"]
        assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
        (mount,) = [each for each in pod.containers[0]["volumeMounts"] if each["name"] == "models"]
        assert mount == {"name": "models", "mountPath": "/models", "readOnly": True}
        assert environment(pod, documents)["HF_HUB_OFFLINE"] == "1"
    (writer,) = [pod for pod in pods(documents) if pod.where == "CronJob/models"]
    assert environment(writer, documents)["HF_HUB_OFFLINE"] == "0"
    assert {"name": "models", "mountPath": "/models"} in writer.containers[0]["volumeMounts"]
    assert one(documents, "CronJob", "models")["spec"]["suspend"] is True


@pytest.mark.full
def test_the_job_of_the_volume_prepares_each_model(tmp_path: Path) -> None:
    documents = build("base", "model-cache")
    (writer,) = [pod for pod in pods(documents) if pod.where == "CronJob/models"]
    program, *arguments = writer.containers[0]["command"]
    assert program == "viewfinder"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments, "demo"],
        cwd=INFRA.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"demo is ready: {tmp_path}/viewfinder/")


# -- Helpers --------------------------------------------------------------------------------------------------------


def clusters(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        if (cluster := ray_cluster(document)) is not None:
            yield cluster


def probes(documents: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    for pod in pods(documents):
        if pod.ray:
            # The container of Ray; one beside it has none.
            yield pod.containers[0][name]


def environment(pod: Pod, documents: list[dict[str, Any]]) -> dict[str, str]:
    """The variables of a pod's first container, which is ours; those from Secrets are empty."""
    maps = {each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for container in pod.spec["containers"][:1]:
        for source in container.get("envFrom", ()):
            found |= maps[source["configMapRef"]["name"]]
        found |= {each["name"]: each.get("value", "") for each in container.get("env", ())}
    return found


def in_image(path: str) -> Path:
    assert path.startswith("/app/"), path
    return INFRA.parent / path.removeprefix("/app/")


def weaknesses(pod: Pod) -> Iterator[str]:
    """Weaknesses that the `restricted` level of Pod Security, or a cluster's operator, would reject."""
    context = pod.spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
        yield f"{pod.where}: may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{pod.where}: no seccomp profile"
    if not pod.spec.get("serviceAccountName"):
        yield f"{pod.where}: runs under the default service account"
    yield from (f"{pod.where}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(name))
    for volume in pod.spec.get("volumes", ()):
        if volume.get("persistentVolumeClaim", {}).get("claimName") == "models":
            continue
        held = set(volume) - {"name"}
        if held not in ({"configMap"}, {"secret"}) and not volume.get("emptyDir", {}).get("sizeLimit"):
            yield f"{pod.where}: volume {volume} is no ConfigMap, Secret or limited emptyDir (hostPath?)"
    for container in pod.containers:
        where = f"{pod.where}/{container['name']}"
        own = container.get("securityContext", {})
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: its root file system is writable"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{where}: may gain privileges"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{where}: keeps capabilities"
        beside = pod.ray is not None and container is not pod.containers[0]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        if writable - ({"/models"} if pod.where == "CronJob/models" else set()) != ({"/state"} if beside else WRITABLE):
            yield f"{where}: exactly /tmp (for Ray) and /data (for viewfinder) must be writable"
        resources = container.get("resources", {})
        for what in ("cpu", "memory"):
            if what not in resources.get("requests", {}):
                yield f"{where}: no request of {what}"
            if what not in resources.get("limits", {}):
                yield f"{where}: no limit of {what}"
        tag = container["image"].rpartition(":")[2]
        if not (re.fullmatch(r"\d+\.\d+\.\d+", tag) if beside else tag.startswith(f"{VERSION}-")):
            yield f"{where}: {container['image']} is not pinned to this version"
        for each in container.get("env", ()):
            if SECRET_NAME.search(each["name"]) and "secretKeyRef" not in each.get("valueFrom", {}):
                yield f"{where}: the file contains the secret {each['name']}"
        if pod.ray and not beside and not {"readinessProbe", "livenessProbe"} <= set(container):
            yield f"{where}: no probes"
