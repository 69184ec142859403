"""Fluent Bit beside the replicas: it follows the files that the service writes, and parses their lines."""

import fnmatch
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.infra.manifests import KUBERNETES, build, one, pods
from viewfinder.service.telemetry import access_log
from viewfinder.service.telemetry.log_files import open_logs

CONFIG = KUBERNETES / "components/logs"


def sections(name: str) -> list[tuple[str, dict[str, str]]]:
    """The sections of a file in Fluent Bit's classic format."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in (CONFIG / name).read_text().splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        elif line.strip() and not line.startswith("#"):
            key, value = line.split(maxsplit=1)
            found[-1][1][key] = value
    return found


def inputs() -> dict[str, dict[str, str]]:
    return {keys["Tag"]: keys for section, keys in sections("fluent-bit.conf") if section == "INPUT"}


@pytest.fixture
def written(tmp_path: Path) -> dict[str, list[str]]:
    """Lines of the files that a replica writes, by the input that follows them."""
    loggers = [logging.getLogger(name) for name in ("serve", "viewfinder", "viewfinder.access")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    try:
        open_logs(tmp_path, "default#viewfinder#abc", to_stderr=False)
        access_log.logger.setLevel(logging.INFO)
        access_log.logger.info(json.dumps({"request_id": "1", "path": "/v1/search", "status": 200}))
        logging.getLogger("viewfinder.query").info("a line")
        try:
            raise ValueError("of a test")
        except ValueError:
            logging.getLogger("viewfinder.query").exception("failed: it has a colon")
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate
    found: dict[str, list[str]] = {}
    for path in tmp_path.iterdir():
        for tag, keys in inputs().items():
            if fnmatch.fnmatchcase(path.name, Path(keys["Path"]).name):
                found[tag] = path.read_text().splitlines()
    return found


def test_every_file_of_a_replica_is_followed_and_no_rotated_one(written: dict[str, list[str]]) -> None:
    assert set(written) == {"access", "service"}
    patterns = [Path(keys["Path"]) for keys in inputs().values()]
    assert {str(each.parent) for each in patterns} == {"/tmp/ray/session_latest/logs/serve"}
    assert not [each for each in patterns if fnmatch.fnmatchcase("access_a.log.1", each.name)]


def test_lines_are_parsed(written: dict[str, list[str]]) -> None:
    parsers = {keys["Name"]: keys for _, keys in sections("parsers.conf")}
    assert parsers[inputs()["access"]["Parser"]]["Format"] == "json"
    assert json.loads(written["access"][0])["status"] == 200
    service = parsers[inputs()["service"]["Parser_Firstline"]]
    # Ruby's syntax of named groups.
    pattern = re.compile(service["Regex"].removeprefix("/").removesuffix("/m").replace("(?<", "(?P<"), re.DOTALL)
    first = [match for line in written["service"] if (match := pattern.match(line))]
    assert [(each["level"], each["logger"], each["message"]) for each in first] == [
        ("INFO", "viewfinder.query", "a line"),
        ("ERROR", "viewfinder.query", "failed: it has a colon"),
    ]
    assert len(written["service"]) > len(first), "a traceback"
    # %L is Fluent Bit's own: fractions of a second.
    time.strptime(first[0]["time"].partition(",")[0], service["Time_Format"].removesuffix(",%L"))


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/gpu"])
def test_it_runs_beside_each_replica_and_reads_what_it_mounts(overlay: str) -> None:
    documents = build(overlay, "logs")
    beside = [pod for pod in pods(documents) if len(pod.containers) > 1]
    assert [pod.where for pod in beside] == ["RayService/viewfinder/replicas"]
    spec: dict[str, Any] = dict(beside[0].spec)
    container = spec["containers"][1]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    (ray,) = [each["name"] for each in spec["containers"][0]["volumeMounts"] if each["mountPath"] == "/tmp"]
    assert mounts["/tmp"] == ray
    volumes = {each["name"]: each for each in spec["volumes"]}
    files = one(documents, "ConfigMap", volumes[mounts["/fluent-bit/etc"]]["configMap"]["name"])["data"]
    assert container["args"] == ["--config=/fluent-bit/etc/fluent-bit.conf"]
    assert set(files) == {"fluent-bit.conf", "parsers.conf"}
    named = set(re.findall(r"\$\{(\w+)\}", files["fluent-bit.conf"]))
    assert named == {each["name"] for each in container["env"]}
    for keys in inputs().values():
        assert str(Path(keys["DB"]).parent) in mounts
