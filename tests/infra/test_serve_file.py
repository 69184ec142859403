"""The file that `serve deploy` takes: Serve's own validation, and that its arguments are settings of ours."""

import inspect
import re

import yaml

from tests.infra.manifests import ROOT
from viewfinder.service.http.guard import is_open_path
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
    from viewfinder.service.app import build_app

    assert list(inspect.signature(build_app).parameters) == ["args"]


def test_the_ports_to_be_closed_are_those_that_ray_opens() -> None:
    from ray.serve._private import constants

    ranges = (constants.RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT, constants.RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT)
    others = (constants.RAY_SERVE_HAPROXY_METRICS_PORT, constants.RAY_SERVE_HAPROXY_STATS_PORT)
    header = (ROOT / "infra/serve_config.yaml").read_text().partition("\nproxy_location")[0]
    runbook = (ROOT / "docs/operations.md").read_text()
    for text in (re.sub(r"\s*\n# ", " ", header), re.sub(r"\s+", " ", runbook)):
        assert re.search(rf"{ranges[0]}(-| to ){ranges[1]}", text)
        for port in others:
            assert re.search(rf"\b{port} \((its|the proxy's) ", text), port


def test_the_service_is_at_one_port_everywhere() -> None:
    port = yaml.safe_load((ROOT / "infra/serve_config.yaml").read_text())["http_options"]["port"]
    settings = Settings.load({})
    assert settings.port == port
    assert settings.server.endswith(f":{port}")
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())["services"]["ray"]
    assert f"127.0.0.1:{port}:{port}" in compose["ports"]
    dockerfile = (ROOT / "infra/Dockerfile").read_text()
    asked = [dockerfile, compose["healthcheck"]["test"][-1], (ROOT / "docs/operations.md").read_text()]
    for text in asked:
        assert set(re.findall(r"(?:127\.0\.0\.1|localhost|10\.0\.0\.5):(\d+)/(?:healthz|readyz|v1)", text)) == {
            str(port)
        }
    assert f"\nEXPOSE {port} " in dockerfile


def test_whoever_has_no_key_may_read_how_to_ask() -> None:
    assert is_open_path("/docs")
    assert is_open_path("/openapi.json")
    assert not is_open_path("/v1/search")
    assert not is_open_path("/metrics")
