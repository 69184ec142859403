"""`serve_config.yaml`: Serve's validation, and its arguments are settings."""

import inspect
import re

import yaml

from tests.infra.manifests import ROOT
from viewfinder.service.http.guard import is_open_path
from viewfinder.settings import Settings


def test_serve_accepts_it_and_its_arguments_are_settings() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "infra/serve_config.yaml").read_text()))
    (application,) = schema.applications
    assert application.import_path == "serve.app:build_app"
    settings = Settings.load(**application.args)
    assert settings.max_replicas == 4
    assert not settings.api_keys, "Ray's dashboard shows this file"
    assert schema.http_options.request_timeout_s is not None
    assert schema.http_options.request_timeout_s > settings.request_timeout_s, "Serve would answer before the service"


def test_its_entry_point_takes_arguments() -> None:
    from viewfinder.service.app import build_app

    assert list(inspect.signature(build_app).parameters) == ["args"]


def test_ports_that_a_firewall_must_close_are_those_that_ray_opens() -> None:
    from ray.serve._private import constants

    ranges = (constants.RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT, constants.RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT)
    others = (constants.RAY_SERVE_HAPROXY_METRICS_PORT, constants.RAY_SERVE_HAPROXY_STATS_PORT)
    header = (ROOT / "infra/serve_config.yaml").read_text().partition("\nproxy_location")[0]
    runbook = (ROOT / "docs/operations.md").read_text()
    for text in (re.sub(r"\s*\n# ", " ", header), re.sub(r"\s+", " ", runbook)):
        assert re.search(rf"{ranges[0]}(-| to ){ranges[1]}", text)
        for port in others:
            assert re.search(rf"\b{port} \(((its|the proxy's) )?(metrics|statistics)\)", text), port


def test_the_service_has_one_port_in_all_files() -> None:
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


def test_the_documentation_needs_no_key() -> None:
    assert is_open_path("/docs")
    assert is_open_path("/openapi.json")
    assert not is_open_path("/v1/search")
    assert not is_open_path("/metrics")
