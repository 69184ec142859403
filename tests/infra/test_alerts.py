"""The alerts fire when they should, by Prometheus' own `promtool test rules`."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import ROOT

pytestmark = pytest.mark.timeout(3900)  # building the program included

PROMTOOL = Path(__file__).with_name("promtool")
FILES = sorted(PROMTOOL.glob("*_test.yaml"))


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((ROOT / "infra/grafana/alerts.yaml").read_text())
    fired = {
        check["alertname"]
        for file in FILES
        for each in yaml.safe_load(file.read_text())["tests"]
        for check in each["alert_rule_test"]
        if check.get("exp_alerts")
    }
    assert fired == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built from Go's module proxy: a quarter of an hour the first time."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go: https://go.dev/doc/install")
    program = tmp_path_factory.mktemp("promtool") / "promtool"
    command = [go, "build", "-mod=readonly", "-o", program, "github.com/prometheus/prometheus/cmd/promtool"]
    done = subprocess.run(command, cwd=PROMTOOL, capture_output=True, text=True, timeout=3600)
    if "dial tcp" in done.stderr or "no such host" in done.stderr:
        pytest.skip(f"the modules of Prometheus cannot be fetched: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.full
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool: Path, file: Path) -> None:
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
