"""The dashboard and the alert rules are well-formed and use only exported metrics."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.infra.manifests import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BOARD: dict[str, Any] = json.loads((ROOT / "infra/grafana/dashboard.json").read_text())
RULES: dict[str, Any] = yaml.safe_load((ROOT / "infra/grafana/alerts.yaml").read_text())
OPERATIONS = ROOT / "docs/operations.md"
# Series of an exported histogram that queries use.
SUFFIXES = ("_bucket", "_count")
# Of kube-state-metrics (its docs/metrics), and the CronJobs that they are about.
KUBE_STATE = {
    "kube_cronjob_created",
    "kube_cronjob_status_last_successful_time",
    "kube_job_status_failed",
    "kube_job_status_start_time",
    "kube_pod_container_status_last_terminated_reason",
    "kube_secret_created",
}
# Of Qdrant since 1.16 (its page on monitoring).
QDRANT = {
    "cluster_pending_operations_total",
    "collection_dead_replicas",
    "collection_points",
    "collection_running_optimizations",
    "memory_resident_bytes",
    "rest_responses_duration_seconds",
    "rest_responses_total",
}
SCHEDULES = {each["metadata"]["name"] for each in build("overlays/gpu") if each["kind"] == "CronJob"}
# Grafana substitutes these before it queries Prometheus.
VARIABLES = {"$__rate_interval": "5m", "$index": "images", "$application": "viewfinder"}

POSITION = {
    "type": "object",
    "required": ["x", "y", "w", "h"],
    "additionalProperties": False,
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 23},
        "y": {"type": "integer", "minimum": 0},
        "w": {"type": "integer", "minimum": 1, "maximum": 24},
        "h": {"type": "integer", "minimum": 1},
    },
}
TARGET = {
    "type": "object",
    "required": ["refId", "datasource", "expr", "legendFormat"],
    "additionalProperties": False,
    "properties": {
        "refId": {"pattern": "^[A-Z]$"},
        "datasource": {"const": {"type": "prometheus", "uid": "${datasource}"}},
        "expr": {"type": "string", "minLength": 1},
        "legendFormat": {"type": "string", "minLength": 1},
    },
}
ROW = {
    "required": ["id", "title", "gridPos", "collapsed", "panels"],
    "properties": {"type": {"const": "row"}, "gridPos": POSITION, "panels": {"maxItems": 0}},
}
GRAPH = {
    "required": ["id", "title", "description", "gridPos", "datasource", "fieldConfig", "options", "targets"],
    "properties": {
        "type": {"const": "timeseries"},
        "gridPos": POSITION,
        "targets": {"type": "array", "items": TARGET, "minItems": 1},
        "fieldConfig": {
            "type": "object",
            "required": ["defaults", "overrides"],
            "properties": {
                "defaults": {
                    "type": "object",
                    "required": ["unit"],
                    "properties": {
                        "unit": {"enum": ["ops", "reqps", "s", "short", "percent", "percentunit", "bytes", "decmbytes"]}
                    },
                }
            },
        },
    },
}
DASHBOARD = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "id": False,  # Grafana assigns it; a fixed number could overwrite another dashboard
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "title": {"type": "string", "minLength": 1},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "items": {"oneOf": [ROW, GRAPH]}},
    },
}
RULE = {
    "type": "object",
    "required": ["alert", "expr", "labels", "annotations"],
    "additionalProperties": False,
    "properties": {
        "alert": {"pattern": "^Viewfinder[A-Za-z]+$"},
        "expr": {"type": "string", "minLength": 1},
        "for": {"pattern": "^[0-9]+[smhd]$"},
        "labels": {
            "type": "object",
            "required": ["severity"],
            "properties": {"severity": {"enum": ["critical", "warning", "info"]}},
        },
        "annotations": {
            "type": "object",
            "required": ["summary", "runbook"],
            "additionalProperties": {"type": "string", "minLength": 1},
        },
    },
}
ALERTS = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {"name": {"type": "string"}, "rules": {"type": "array", "items": RULE, "minItems": 1}},
            },
        }
    },
}


def queries() -> Iterator[tuple[str, str]]:
    """Every query with its place."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']!r}", target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert metric, variable
            yield f"variable {variable['name']!r}", f"count by ({metric[2]}) ({metric[1]})"
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


QUERIES = [pytest.param(expr, id=where) for where, expr in queries()]


def metrics_of(expr: str) -> set[str]:
    """The metrics in a query: words other than labels, label values, functions and keywords."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"\b[a-zA-Z_][a-zA-Z0-9_]*\b(?!\s*\()", re.sub(r"\btime\(\)", "", bare))
    return set(words) - {"and", "or", "unless", "by", "on", "without", "bool", "offset"}


def labels_of(expr: str) -> Iterator[tuple[str, str, str]]:
    """Metric, label and value of each matcher without a template variable."""
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", expr):
        for label, value in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', matchers):
            if not value.startswith("$"):
                yield metric, label, value


def literals(*folders: str) -> str:
    return "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def ours() -> set[str]:
    """The metrics of jobs and the service."""
    return set(re.findall(r'(?i:counter|gauge|histogram)\(\s*"(viewfinder_\w+)"', literals("viewfinder")))


def ray_package() -> Path:
    found = find_spec("ray")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def rays() -> set[str]:
    """The metrics of nodes and of Serve in Ray's Python code."""
    package = ray_package()
    sources = [package / "dashboard/modules/reporter/reporter_agent.py", *(package / "serve/_private").glob("*.py")]
    made = re.compile(r'(?:Gauge|Counter|Histogram)\(\s*"(\w+)"')
    # Ray's C++ exports this one; its own usage statistics read it.
    usage = (package / "data/_internal/usage/collector.py").read_text()
    counted = set(re.findall(r'"ray_(memory_manager_worker_eviction_total)"', usage))
    return counted | {name for source in sources for name in made.findall(source.read_text())}


@pytest.mark.parametrize(
    ("expr", "metrics"),
    [
        ("up", {"up"}),
        ('sum by (a, b) (rate(one_total{c="two", d=~"three.*"}[5m]))', {"one_total"}),
        ("histogram_quantile(0.5, sum by (le) (rate(x_bucket[$__rate_interval]))) > 1", {"x_bucket"}),
        ("(a_b == 1) and on () (sum(c_d) > 0) or absent(e)", {"a_b", "c_d", "e"}),
        ("max by (i) (a / b) unless sum without (z) (c) > 0.5", {"a", "b", "c"}),
    ],
)
def test_the_names_in_a_query_are_found(expr: str, metrics: set[str]) -> None:
    assert metrics_of(expr) == metrics


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_names_only_metrics_that_are_exported(expr: str) -> None:
    # Ray's agents put `ray_` before each name; a histogram is several series.
    exported = {f"ray_{name}" for name in ours() | rays()} | KUBE_STATE | QDRANT
    asked = metrics_of(expr)
    assert asked
    unknown = {
        name
        for name in asked
        if name not in exported and not any(name.removesuffix(suffix) in exported for suffix in SUFFIXES)
    }
    assert not unknown


def test_every_metric_is_on_the_dashboard() -> None:
    assert {"viewfinder_job_objects_total", "viewfinder_request_seconds"} <= ours()
    shown = {
        name for panel in BOARD["panels"] for each in panel.get("targets", []) for name in metrics_of(each["expr"])
    }
    shown = {name.removesuffix("_bucket").removesuffix("_count") for name in shown}
    assert {f"ray_{name}" for name in ours()} <= shown


@pytest.mark.parametrize("expr", QUERIES)
def test_label_values_in_a_query_exist_in_the_code(expr: str) -> None:
    code = literals("viewfinder")
    for metric, label, value in labels_of(expr):
        if metric in KUBE_STATE:
            assert (
                value in ("viewfinder", "qdrant-tokens", "OOMKilled") or set(re.findall(r"\w+", value)) == SCHEDULES
            ), metric
            continue
        if label == "Component":
            assert f'"{value}"' in (ray_package() / "dashboard/modules/reporter/reporter_agent.py").read_text(), value
            continue
        assert label in ("route", "status", "deployment", "code", "outcome", "reason", "stage", "result"), metric
        if label not in ("route", "status"):  # patterns over paths and numbers
            for each in value.split("|"):
                assert f'"{each}"' in code, f"{metric}: nothing sets {label} to {each!r}"


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_is_promql(expr: str) -> None:
    if find_spec("promql_parser") is None:
        pytest.skip("needs promql-parser: pip install promql-parser")
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    import_module("promql_parser").parse(expr)


def test_a_mistake_in_promql_would_be_noticed() -> None:
    if find_spec("promql_parser") is None:
        pytest.skip("needs promql-parser: pip install promql-parser")
    with pytest.raises(ValueError, match=r"unclosed|parse|invalid|unexpected"):
        import_module("promql_parser").parse("sum by (le (up)")


def test_the_dashboard_follows_grafanas_schema() -> None:
    jsonschema.Draft202012Validator(DASHBOARD).validate(BOARD)
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, f"two panels at {one} and {other}"
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.parametrize("broken", ["id", "panel without query", "unknown unit"])
def test_a_mistake_in_the_dashboard_would_be_noticed(broken: str) -> None:
    board = json.loads(json.dumps(BOARD))
    graph = next(panel for panel in board["panels"] if panel["type"] == "timeseries")
    if broken == "id":
        board["id"] = 7
    elif broken == "panel without query":
        graph["targets"] = []
    else:
        graph["fieldConfig"]["defaults"]["unit"] = "parsecs"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(DASHBOARD).validate(board)


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            kept = {name for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in group.split(", ")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_the_rules_follow_prometheus_schema() -> None:
    jsonschema.Draft202012Validator(ALERTS).validate(RULES)
    names = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
    assert len(set(names)) == len(names)


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    headings = set(re.findall(r"^### (Viewfinder\w+)$", OPERATIONS.read_text(), re.MULTILINE))
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == headings
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_alerts_keep_the_labels_that_they_print() -> None:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            printed = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            kept = {name for found in re.findall(r"by \(([^)]*)\)", rule["expr"]) for name in found.split(", ")}
            assert printed <= kept, rule["alert"]
