"""The files for Anyscale: its models, where its package is installed, and what they share with other deployments."""

import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from tests.infra.arguments import parsed
from tests.infra.manifests import INFRA, ROOT, SECRET_NAME, VERSION, locked, unknown_variables
from viewfinder.settings import Settings

SERVICE: dict[str, Any] = yaml.safe_load((INFRA / "anyscale/service.yaml").read_text())
JOB: dict[str, Any] = yaml.safe_load((INFRA / "anyscale/job.yaml").read_text())


@pytest.mark.parametrize("broken", [False, True])
def test_anyscale_knows_every_field(broken: bool) -> None:
    reason = "pip install anyscale, in an environment of its own"
    jobs = pytest.importorskip("anyscale.job.models", reason=reason)
    services = pytest.importorskip("anyscale.service.models", reason=reason)
    for model, document in ((jobs.JobConfig, JOB), (services.ServiceConfig, SERVICE)):
        if broken:
            with pytest.raises(TypeError, match="image_url"):
                model.from_dict({**document, "image_url": "x"})
        else:
            assert model.from_dict(document).compute_config.worker_nodes


@pytest.mark.parametrize("document", [SERVICE, JOB], ids=["service", "job"])
def test_versions_and_variables(document: dict[str, Any]) -> None:
    assert document["image_uri"].endswith(f":{VERSION}")
    assert unknown_variables(document["env_vars"]) == []
    assert not [name for name in document["env_vars"] if SECRET_NAME.search(name)]
    assert document["working_dir"] == "local:///app"
    # The head runs no tasks.
    assert document["compute_config"]["head_node"]["resources"] == {"CPU": 0}


def test_the_service_has_the_configuration_of_the_serve_file() -> None:
    serve = yaml.safe_load((INFRA / "serve_config.yaml").read_text())
    # Host and port are Anyscale's.
    kept = {name: value for name, value in serve["http_options"].items() if name not in ("host", "port")}
    assert SERVICE["http_options"] == kept
    (application,), (other,) = SERVICE["applications"], serve["applications"]
    assert {name: application[name] for name in ("name", "route_prefix", "import_path")} == {
        name: other[name] for name in ("name", "route_prefix", "import_path")
    }
    args = application["args"]
    assert SERVICE["http_options"]["request_timeout_s"] > Settings.load({}, **args).request_timeout_s
    (group,) = SERVICE["compute_config"]["worker_nodes"]
    assert (args["min_replicas"], args["max_replicas"]) == (group["min_nodes"], group["max_nodes"])


def test_the_job_takes_flags_that_exist_and_one_encoder_for_each_gpu_node() -> None:
    python, program, *arguments = shlex.split(JOB["entrypoint"])
    assert (python, program) == ("python", "jobs/index.py")
    assert parsed("index", arguments)["prune"]
    groups = {group["name"]: group for group in JOB["compute_config"]["worker_nodes"]}
    assert int(JOB["env_vars"]["VIEWFINDER_ENCODERS"]) == groups["encode"]["max_nodes"]
    assert {group["min_nodes"] for group in groups.values()} == {0}


def test_the_page_on_operations_makes_a_schedule_of_the_job() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    (command,) = re.findall(r"^\$ (\{ printf .*?\}) > nightly.yaml$", page, re.MULTILINE | re.DOTALL)
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, env={"TOKEN": "t-1"}, capture_output=True, check=True)
    schedule = yaml.safe_load(made.stdout)
    job = schedule.pop("job_config")
    assert schedule == {"name": "viewfinder-nightly", "cron_expression": "0 1 * * *", "timezone": "UTC"}
    assert job == JOB | {"env_vars": {"VIEWFINDER_QDRANT_API_KEY": "t-1", **JOB["env_vars"]}}


def test_the_image_is_made_with_the_lock_on_a_base_with_its_ray() -> None:
    text = (INFRA / "anyscale/Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=anyscale/ray:([\d.]+)-", text, re.MULTILINE)[1] == locked("ray")  # type: ignore[index]
    assert "--constraint requirements.lock" in text
    version = re.compile(r"^ARG UV_VERSION=.*", re.MULTILINE)
    assert version.findall(text) == version.findall((INFRA / "Dockerfile").read_text())
    for source in re.findall(r"^COPY --chown=ray (.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (INFRA / "anyscale/Dockerfile.dockerignore").read_text().splitlines(), name
