"""The log files of a replica."""

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from viewfinder.service.telemetry import access_log, log_files
from viewfinder.service.telemetry.log_files import open_logs

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("serve", "viewfinder", "viewfinder.access")


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """The loggers as they were before."""
    before = {name: (log.level, log.handlers, log.propagate) for name in NAMES if (log := logging.getLogger(name))}
    yield
    for name, (level, handlers, propagate) in before.items():
        log = logging.getLogger(name)
        for each in log.handlers:
            if each not in handlers:
                each.close()
        log.setLevel(level)
        log.handlers, log.propagate = handlers, propagate


def test_each_line_is_in_its_file_at_once_and_json_without_a_prefix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_logs(tmp_path / "serve", "abc", to_stderr=False)
    logging.getLogger("viewfinder.service").warning("Loading model\n%s", "demo")
    access_log.logger.info("%s", json.dumps({"status": 200}))
    assert json.loads((tmp_path / "serve/access_abc.log").read_text()) == {"status": 200}
    line = (tmp_path / "serve/viewfinder_abc.log").read_text()
    assert line.endswith("WARNING viewfinder.service: Loading model\\ndemo\n")
    assert capsys.readouterr().err == ""


def test_both_also_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_logs(tmp_path, "abc", to_stderr=True)
    access_log.logger.info("%s", json.dumps({"status": 200}))
    logging.getLogger("viewfinder").info("ready")
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first) == {"status": 200}
    assert second.endswith("INFO viewfinder: ready")


def test_files_are_rotated_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 1000)
    open_logs(tmp_path, "abc", to_stderr=False)
    for number in range(200):
        access_log.logger.info("%s", json.dumps({"request_id": f"{number:03}", "padding": "x" * 50}))
    files = sorted(tmp_path.glob("access_*"))
    assert [each.name for each in files] == ["access_abc.log", *(f"access_abc.log.{number}" for number in (1, 2, 3))]
    assert all(each.stat().st_size <= 1000 for each in files)
    assert json.loads(files[0].read_text().splitlines()[-1])["request_id"] == "199"


def test_the_command_of_the_runbook_counts_the_errors(tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    open_logs(tmp_path, "abc", to_stderr=False)
    for status, code in ((200, None), (503, "overloaded"), (503, "overloaded"), (500, "internal_error")):
        record = {"request_id": "r", "path": "/v1/search", "status": status, "code": code}
        access_log.logger.info("%s", json.dumps(record))
    runbook = (ROOT / "docs/operations.md").read_text()
    (command,) = re.findall(r"^\$ (cat \S+/access_\*\.log \| jq .*)$", runbook, re.MULTILINE)
    command = command.replace("/tmp/ray/session_latest/logs/serve", str(tmp_path))
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["2", "overloaded", "/v1/search"],
        ["1", "internal_error", "/v1/search"],
    ]
