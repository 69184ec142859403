"""`ray_cluster.yaml`: the launcher's validation, cost while idle, roles, secrets."""

import copy
import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from tests.infra.manifests import ROOT, SECRET_NAME, VERSION, unknown_variables


@pytest.fixture
def config() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    return document


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(filled)
    return filled


def test_the_launcher_accepts_it(config: dict[str, Any]) -> None:
    assert prepared(config)["docker"]["container_name"] == "viewfinder"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["docker", "imag"], "x"),
        (["available_node_types", "encode", "min_worker"], 0),
        (["available_node_types", "encode", "docker", "image"], "x"),
        (["cluster_nam"], "x"),
        (["max_workerz"], 3),
        (["idle_timeout_minutes"], "five"),
    ],
)
def test_the_launcher_would_notice_a_mistake(config: dict[str, Any], path: list[str], value: object) -> None:
    place = config
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(Exception, match=r"(?s)schema|valid|not of type|unexpected"):
        prepared(config)


def test_only_the_head_runs_while_there_is_no_job(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert config["idle_timeout_minutes"] <= 5
    assert types["head"]["resources"] == {"CPU": 0}
    assert [types[name]["min_workers"] for name in ("decode", "encode")] == [0, 0]
    assert types["encode"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["max_workers"] == sum(types[name]["max_workers"] for name in ("decode", "encode"))


def test_every_node_has_an_instance_profile_and_a_label(config: dict[str, Any]) -> None:
    for name, node in config["available_node_types"].items():
        assert node["node_config"]["IamInstanceProfile"]["Name"].startswith("viewfinder-")
        assert node["labels"] == {"role": name}


def test_no_default_of_ray_for_aws_is_left_in_it(config: dict[str, Any]) -> None:
    # Regression: Ray's defaults installed another Ray in the container, took an image of Ubuntu 18.04 and opened SSH to
    # the world.
    filled = prepared(config)
    assert [filled[name] for name in ("head_setup_commands", "worker_setup_commands")] == [[], []]
    assert not any("pip install" in command for command in filled["initialization_commands"])
    for node in filled["available_node_types"].values():
        assert {"ImageId", "SubnetIds", "SecurityGroupIds"} <= set(node["node_config"])


def test_containers_on_gpu_machines_see_the_gpus(config: dict[str, Any]) -> None:
    # Ray adds --runtime=nvidia alone.
    for node in prepared(config)["available_node_types"].values():
        options = node.get("docker", {}).get("worker_run_options", [])
        assert ("--gpus all" in options) == ("GPU" in node["resources"])


def test_the_registry_of_the_images_is_logged_in_to(config: dict[str, Any]) -> None:
    images = {config["docker"]["image"], config["available_node_types"]["encode"]["docker"]["worker_image"]}
    (login,) = config["initialization_commands"]
    assert {image.partition("/")[0] for image in images} == {login.split()[-1]}


def test_login_shells_of_the_image_find_its_programs() -> None:
    # Regression: `ray up` runs commands in login shells, where Debian's /etc/profile sets PATH anew: no python, no ray.
    dockerfile = (ROOT / "infra/Dockerfile").read_text()
    (line,) = re.findall(r'echo (".+") > /etc/profile\.d/viewfinder\.sh', dockerfile)
    profile = "PATH=/usr/local/bin:/usr/bin:/bin; export PATH"  # the start of Debian's, which then reads profile.d
    shell = ["env", "-i", "bash", "--noprofile", "-c", f'{profile}; eval "$(echo {line})"; printf %s "$PATH"']
    path = subprocess.run(shell, capture_output=True, text=True, check=True, timeout=30).stdout
    assert path.startswith("/opt/venv/bin:")
    assert "ENV PATH=/opt/venv/bin:${PATH}" in dockerfile


def test_images_have_this_version_and_gpu_nodes_have_cuda(config: dict[str, Any]) -> None:
    assert config["docker"]["image"].endswith(f"/viewfinder:{VERSION}-cpu")
    encode = config["available_node_types"]["encode"]
    assert encode["docker"]["worker_image"].endswith(f"/viewfinder:{VERSION}-cuda")
    assert encode["resources"]["GPU"] == 1


def test_every_variable_is_read_by_a_program_and_none_holds_a_secret(config: dict[str, Any]) -> None:
    options = [shlex.split(option) for option in config["docker"]["run_options"]]
    given = dict(option[1].split("=", 1) for option in options if option[0] == "--env")
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    exported = dict.fromkeys(re.findall(r"\b([A-Z][A-Z_]+)=", commands), "")
    assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "VIEWFINDER_QDRANT_API_KEY"} == set(exported)
    assert unknown_variables(given | exported) == []
    assert int(given["VIEWFINDER_ENCODERS"]) == config["available_node_types"]["encode"]["max_workers"]
    for name, value in re.findall(r"\b([A-Z][A-Z_]+)=(\S+)", commands):
        assert not SECRET_NAME.search(name) or value.startswith('"$(secret'), name


def test_the_dashboard_listens_on_loopback_only(config: dict[str, Any]) -> None:
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])


def test_metrics_have_the_port_of_the_runbook(config: dict[str, Any]) -> None:
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "--metrics-export-port=8080" in command
    assert "its metrics (8080)" in (ROOT / "docs/operations.md").read_text()


def test_its_shell_and_python_commands_parse(config: dict[str, Any]) -> None:
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        for code in re.findall(r"python -c '(.+?)'", command):
            compile(code, "ray_cluster.yaml", "exec")


def test_the_image_holds_the_job_and_what_ray_up_needs(config: dict[str, Any]) -> None:
    header = (ROOT / "ray_cluster.yaml").read_text().partition("\ncluster_name")[0]
    (program,) = re.findall(r"python /app/(\S+)", header)
    assert (ROOT / program).is_file()
    # `ray up` runs these two in the container.
    assert re.search(r"apt-get install .*openssh-client rsync", (ROOT / "infra/Dockerfile").read_text())
