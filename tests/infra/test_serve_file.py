"""The file that `serve deploy` takes: Serve's own validation, and that its arguments are settings of ours."""

import inspect

import yaml

from tests.infra.manifests import ROOT
from viewfinder.settings import Settings


def test_it_passes_serves_own_validation_and_its_arguments_are_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "infra/serve_config.yaml").read_text()))
    (application,) = schema.applications
    assert application.import_path == "serve.app:build_app"
    settings = Settings.load(**application.args)
    assert settings.max_replicas == 4
    assert not settings.api_keys, "keys in this file would be seen in Ray's dashboard"
    assert schema.http_options.request_timeout_s is not None
    assert schema.http_options.request_timeout_s > settings.request_timeout_s, "Serve would answer before the service"


def test_the_entry_point_that_it_names_takes_arguments() -> None:
    from serve.app import build_app

    assert list(inspect.signature(build_app).parameters) == ["args"]
