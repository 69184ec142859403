"""The systemd unit of the service on one machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.arguments import parsed
from tests.infra.manifests import INFRA, unknown_variables

UNIT = INFRA / "viewfinder.service"


def verified(directory: Path, text: str) -> str:
    """Return the output of `systemd-analyze verify` for the unit; its program is replaced by one that exists."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    unit = directory / UNIT.name
    unit.write_text(text.replace("/opt/viewfinder/bin/viewfinder", "/bin/true").replace("User=viewfinder", "User=root"))
    done = subprocess.run(
        [program, "verify", "--recursive-errors=no", unit], capture_output=True, text=True, timeout=60
    )
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert verified(tmp_path, UNIT.read_text()) == ""


def test_a_mistake_would_be_noticed(tmp_path: Path) -> None:
    assert "RestartSecs" in verified(tmp_path, UNIT.read_text().replace("RestartSec=", "RestartSecs="))


def test_it_runs_the_service_with_variables_that_are_read() -> None:
    text = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=/opt/viewfinder/bin/viewfinder (.*)$", text, re.MULTILINE)
    name, *arguments = command.split()
    parsed(name, arguments)
    variables = dict(each.split("=", 1) for each in re.findall(r"^Environment=(.*)$", text, re.MULTILINE)[0].split())
    assert unknown_variables(variables) == []
    assert variables["VIEWFINDER_DATA_DIR"] == "/var/lib/viewfinder"


def test_the_command_that_indexes_has_the_data_of_the_service() -> None:
    """A run without the directory of the service made an index of its own, which no search found."""
    text = UNIT.read_text()
    (line,) = re.findall(r"^# +systemd-run (.*) \\\n# +/opt/viewfinder/bin/viewfinder (.*)$", text, re.MULTILINE)
    assert "--property EnvironmentFile=/etc/viewfinder.env" in line[0]
    assert "--setenv VIEWFINDER_DATA_DIR=/var/lib/viewfinder" in line[0]
    name, *arguments = line[1].split()
    parsed(name, arguments)
    assert name == "index", "`reindex` needs an index that exists"
