"""`viewfinder models` and `viewfinder key`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Viewfinder, program
from viewfinder.models.checkpoint import locate
from viewfinder.models.registry import REGISTRY
from viewfinder.service.http.keys import KeyRing
from viewfinder.settings import Settings


def test_models_are_lines_in_a_pipe_and_json(viewfinder: Viewfinder) -> None:
    rows = [line.split("\t") for line in viewfinder("models").out.splitlines()]
    assert rows[0] == ["name", "dimension", "image", "tokens", "languages", "licence", "good for"]
    assert [row[0] for row in rows[1:]] == list(REGISTRY)
    assert not any("None" in row for row in rows)
    assert [each["name"] for each in json.loads(viewfinder("models", "--json").out)] == list(REGISTRY)


@pytest.mark.parametrize("name", ["demo", "demo-small"])
def test_the_demo_models_have_their_known_sizes(name: str) -> None:
    checkpoint = locate(name)
    spec = REGISTRY[name]
    assert spec.dimension == checkpoint.dimension
    assert spec.image_size == checkpoint.preprocess.size


@pytest.mark.parametrize("width", ["80", "200"])
def test_every_property_of_a_model_is_shown_in_a_terminal(width: str) -> None:
    shown = program(["models"], {"TTY_COMPATIBLE": "1", "COLUMNS": width, "TERM": "dumb"}).stdout
    for spec in REGISTRY.values():
        assert spec.name in shown
        assert spec.good_for in shown


@pytest.mark.parametrize("arguments", [("prepare",), ("list", "demo")])
def test_only_preparing_takes_models(viewfinder: Viewfinder, arguments: tuple[str, ...]) -> None:
    viewfinder("models", *arguments).check_message(2, "'prepare' takes one or more models, 'list' takes none")


def test_an_unknown_model_is_not_prepared(viewfinder: Viewfinder) -> None:
    viewfinder("models", "prepare", "demmo").check_message(2, "Closest known: 'demo'")


def test_a_cache_that_cannot_be_written_is_an_error_of_preparing(viewfinder: Viewfinder) -> None:
    # HF_HOME of the tests cannot be written.
    done = viewfinder("models", "prepare", "demo-small")
    done.check_message(1, "Model 'demo-small' cannot be exported for OpenVINO: ")
    assert "cannot be written" in done.err


@pytest.mark.full
def test_a_prepared_model_is_on_openvino(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    made = json.loads(program(["models", "prepare", "demo-small", "--json"], home).stdout)
    assert made["name"] == "demo-small"
    assert made["cosine"] > 0.999
    assert Path(made["directory"]).parent == tmp_path / "viewfinder"
    again = program(["models", "prepare", "demo-small"], home)
    assert again.stdout == f"demo-small is ready: {made['directory']}\n"


@pytest.mark.parametrize("admin", [(), ("--admin",)])
def test_a_service_accepts_a_key_by_its_digest(admin: tuple[str, ...], viewfinder: Viewfinder) -> None:
    made = json.loads(viewfinder("key", *admin, "--json").out)
    ring = KeyRing(Settings.load({}, api_keys=made["digest"]).api_keys)
    found = ring.find(made["key"].encode())
    assert found is not None
    assert found.scope == ("admin" if admin else "read")
    assert made["key"] not in made["digest"]
    shown = viewfinder("key", *admin).out
    assert "VIEWFINDER_API_KEYS=" in shown
    assert made["key"] not in shown


def test_a_key_with_a_filter_is_an_element_of_the_keys_file(tmp_path: Path, viewfinder: Viewfinder) -> None:
    condition = '{"meta.team": {"eq": "a"}}'
    made = json.loads(viewfinder("key", "--name", "team a", "--filter", condition, "--json").out)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [made["entry"]]}))
    found = KeyRing(Settings.load({}, api_keys_file=file).api_keys).find(made["key"].encode())
    assert found is not None
    assert (found.scope, made["entry"]["filter"]) == ("read", json.loads(condition))
    shown = viewfinder("key", "--filter", condition).out
    entry = json.loads(shown.splitlines()[-1])
    assert entry["filter"] == json.loads(condition)
    assert "VIEWFINDER_API_KEYS_FILE" in shown


def test_a_key_with_indexes_is_an_element_of_the_keys_file(tmp_path: Path, viewfinder: Viewfinder) -> None:
    made = json.loads(viewfinder("key", "--admin", "--index", "b", "--index", "a", "--index", "b", "--json").out)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [made["entry"]]}))
    found = KeyRing(Settings.load({}, api_keys_file=file).api_keys).find(made["key"].encode())
    assert found is not None
    assert (found.scope, found.filter, found.indexes) == ("admin", None, ("b", "a"))


@pytest.mark.parametrize(
    "flags", [("--metrics", "--filter", '{"width": {"gte": 8}}'), ("--metrics", "--index", "a"), ("--name", "a")]
)
def test_options_of_a_key_that_make_no_sense_together_are_refused(
    flags: tuple[str, ...], viewfinder: Viewfinder
) -> None:
    viewfinder("key", *flags).check_message(2, flags[0])
