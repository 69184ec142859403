"""The deployment files pass the validation of the tools that read them, and name only what exists."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from viewfinder.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def read(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return document


def test_the_cluster_file_passes_the_launchers_own_validation() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read("ray_cluster.yaml"))
    validate_config(config)
    assert config["available_node_types"]["encode"]["resources"]["GPU"] == 1


def test_a_cluster_file_with_a_mistake_does_not_pass() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read("ray_cluster.yaml"))
    with pytest.raises(Exception, match="max_workerz"):
        validate_config(config | {"max_workerz": 3})


def test_the_serve_file_passes_serves_own_validation_and_its_arguments_are_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(read("infra/serve_config.yaml"))
    application = schema.applications[0]
    assert application.import_path == "serve.app:build_app"
    settings = Settings.load(**application.args)
    assert settings.max_replicas == 4
    assert not settings.api_keys, "keys in this file would be seen in Ray's dashboard"
    assert schema.http_options.request_timeout_s is not None
    assert schema.http_options.request_timeout_s > settings.request_timeout_s, "Serve would answer before the service"


def test_the_entry_point_that_the_serve_file_names_takes_arguments() -> None:
    from serve.app import build_app

    assert list(inspect.signature(build_app).parameters) == ["args"]
