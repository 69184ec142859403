"""Settings: sources and their order, all problems in one message, all fields in the docs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from viewfinder.environment import PREFIX, variable
from viewfinder.errors import ConfigurationError
from viewfinder.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove all settings from the environment, and change to an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_defaults_need_no_configuration() -> None:
    settings = Settings.load()
    assert settings.model == "ViT-B-32::openai"
    assert settings.index == "images"
    assert settings.data_dir == Path("~/.viewfinder").expanduser()
    assert settings.qdrant_url is None


def test_arguments_precede_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_MODEL", "demo")
    monkeypatch.setenv("VIEWFINDER_INDEX", "cats")
    settings = Settings.load(index="dogs", model=None)
    assert (settings.model, settings.index) == ("demo", "dogs")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", "")
    assert Settings.load().qdrant_url is None


def test_a_relative_data_directory_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", "here")
    assert Settings.load().data_dir == tmp_path / "here"


def test_all_problems_are_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_MODLE", "demo")
    monkeypatch.setenv("VIEWFINDER_PORT", "99999")
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", "localhost:6333")
    with pytest.raises(ConfigurationError) as raised:
        Settings.load()
    message = str(raised.value)
    assert "VIEWFINDER_MODLE: no such setting; did you mean VIEWFINDER_MODEL?" in message
    assert "VIEWFINDER_PORT" in message
    assert "'99999'" in message
    assert "VIEWFINDER_QDRANT_URL: must begin with http:// or https://" in message


@pytest.mark.parametrize("name", ["has space", "UPPER", "", "-dash", "x" * 64, "a/b", "naïve"])
def test_an_index_name_that_cannot_be_an_alias_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"index: .* is not a name of an index: 1 to 63 lower-case letters"):
        Settings.load(index=name)


def test_secrets_are_not_in_the_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_QDRANT_API_KEY", "a-secret")
    assert "a-secret" not in repr(Settings.load())


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"VIEWFINDER_QDRANT_GRPC_URL": "http://q:6334"}, "needs VIEWFINDER_QDRANT_URL"),
        ({"VIEWFINDER_QDRANT_URL": "http://q", "VIEWFINDER_QDRANT_GRPC_URL": "q:6334"}, "must begin with http://"),
        (
            {"VIEWFINDER_QDRANT_URL": "http://q", "VIEWFINDER_QDRANT_GRPC_URL": "https://q/qdrant"},
            "'https://q/qdrant' has a path, which gRPC has not",
        ),
    ],
)
def test_a_wrong_address_for_grpc_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environment)
    assert "VIEWFINDER_QDRANT_GRPC_URL: " in str(caught.value)
    assert said in str(caught.value)


def test_settings_are_immutable() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.index = "other"  # type: ignore[misc]


def documented(name: str) -> str:
    """Return the row of docs/configuration.md that a setting must have."""
    field = Settings.model_fields[name]
    default = field.default
    if default in (None, ()):
        shown = "unset"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = str(default)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = ", ".join(
        f"{sign} {getattr(bound, attribute):,}"
        for bound in field.metadata
        for attribute, sign in signs.items()
        if getattr(bound, attribute, None) is not None
    )
    return f"| `{variable(name)}` | `{shown}` | {bounds} | {field.description} |"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_docs_give_default_bounds_and_description_of_a_setting(name: str) -> None:
    assert documented(name) in (ROOT / "docs" / "configuration.md").read_text()


def test_the_docs_list_exactly_the_settings_in_order() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == [variable(name) for name in Settings.model_fields]


# Files


def test_arguments_precede_the_environment_then_dotenv_then_toml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "viewfinder.toml").write_text('index = "toml"\nmodel = "toml"\nqdrant_url = "http://toml"\nport = 1\n')
    (tmp_path / ".env").write_text(
        "VIEWFINDER_INDEX=dotenv\nVIEWFINDER_MODEL=dotenv\nVIEWFINDER_QDRANT_URL=http://dotenv\n"
    )
    monkeypatch.setenv("VIEWFINDER_INDEX", "environment")
    monkeypatch.setenv("VIEWFINDER_MODEL", "environment")
    settings = Settings.load(config="viewfinder.toml", index="flag")
    assert settings.index == "flag"
    assert settings.model == "environment"
    assert settings.qdrant_url == "http://dotenv"
    assert settings.port == 1
    assert settings.batch_size == 16


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_variable_can_name_the_toml_file(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('cors_origins = ["https://example.org"]\n')
    if where == ".env":
        (tmp_path / ".env").write_text("VIEWFINDER_CONFIG=a.toml\n")
    else:
        monkeypatch.setenv("VIEWFINDER_CONFIG", "a.toml")
    assert Settings.load().cors_origins == ("https://example.org",)


def test_an_empty_variable_leaves_the_value_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("VIEWFINDER_INDEX=dotenv\n")
    monkeypatch.setenv("VIEWFINDER_INDEX", "")
    assert Settings.load().index == "dotenv"


def test_ray_variables_are_read_from_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / ".env").write_text("RAY_ADDRESS=10.0.0.1:6379\nOTHER=ignored\n")
    assert Settings.load().ray_address == "10.0.0.1:6379"


def test_problems_of_all_sources_are_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.toml").write_text('modle = "demo"\nbatch_size = 0\nqdrant_api_key = 3\n')
    (tmp_path / ".env").write_text("VIEWFINDER_PROT=1\n")
    monkeypatch.setenv("VIEWFINDER_MIN_REPLICAS", "-1")
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(config="a.toml", nonsense=1)
    message = str(raised.value)
    for line in (
        ".env: VIEWFINDER_PROT: no such setting; did you mean VIEWFINDER_PORT?",
        "a.toml: modle: no such setting; did you mean model?",
        "a.toml: batch_size: input should be greater than or equal to 1 (given: '0')",
        "VIEWFINDER_MIN_REPLICAS: input should be greater than or equal to 0 (given: '-1')",
        "nonsense: no such setting; docs/configuration.md lists all of them.",
    ):
        assert line in message


def test_a_dotenv_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    # Regression: a traceback.
    (tmp_path / ".env").write_bytes("VIEWFINDER_INDEX=caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"(?s)The configuration is wrong:.*  \.env: is not UTF-8: .*0xe9"):
        Settings.load()


def test_a_dotenv_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("viewfinder.environment.dotenv_values", refuse)
    with pytest.raises(ConfigurationError, match=r"\.env: cannot be read: Permission denied"):
        Settings.load()


def test_the_home_directory_of_an_unknown_user_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"--config: the home directory in '~no-such-user/a\.toml' does not exist"
    ):
        Settings.load(config="~no-such-user/a.toml")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read: No such file"), ("a =", "is not a TOML file")]
)
def test_an_unreadable_config_file_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.toml").write_text(content)
    with pytest.raises(ConfigurationError, match=f"--config: 'a.toml' {message}"):
        Settings.load(config="a.toml")


def test_a_given_environment_replaces_the_process_and_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("VIEWFINDER_INDEX=dotenv\n")
    monkeypatch.setenv("VIEWFINDER_MODEL", "demo")
    settings = Settings.load({"VIEWFINDER_PORT": "1"})
    assert (settings.index, settings.model, settings.port) == ("images", "ViT-B-32::openai", 1)


@pytest.mark.parametrize("module", ["viewfinder", "viewfinder.cli.main", "viewfinder.settings", "viewfinder.store"])
def test_light_modules_load_neither_torch_nor_ray(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'torch', 'ray', 'open_clip'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_viewfinder_ray_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(ConfigurationError, match="VIEWFINDER_RAY_ADDRESS: no such setting"):
        Settings.load()


@pytest.mark.parametrize("address", ["auto", "local", "head:6379", "10.0.0.1:6379", "[2001:db8::1]:6379"])
def test_the_address_of_a_ray_cluster_is_accepted(address: str) -> None:
    assert Settings.load({"RAY_ADDRESS": address}).ray_address == address


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://head:8265", "is the address of the cluster's job server; write head:6379, and give the job server"),
        ("https://ray.example.org/", "write ray.example.org:6379"),
        ("head", "'head' is not HOST:PORT, 'auto' or 'local'"),
        ("ray://head:10001", "'ray://head:10001' is an address of Ray Client, with which jobs do not work"),
        ("ray://head:10001", "Use 'ray job submit'"),
        ("ray:/head:10001", "is not HOST:PORT"),
    ],
)
def test_an_address_that_is_no_ray_cluster_is_refused(address: str, says: str) -> None:
    # Regression: Ray's job server in RAY_ADDRESS ended in a traceback of Ray.
    with pytest.raises(ConfigurationError, match=r"(?s)RAY_ADDRESS: .*" + re.escape(says)):
        Settings.load({"RAY_ADDRESS": address})


def test_the_service_is_the_one_named_or_the_one_on_this_machine() -> None:
    assert Settings.load({}).service_url == "http://localhost:8000"
    assert Settings.load({"VIEWFINDER_PORT": "8080"}).service_url == "http://localhost:8080"
    named = {"VIEWFINDER_PORT": "8080", "VIEWFINDER_SERVER": "https://search.example.org"}
    assert Settings.load(named).service_url == "https://search.example.org"


def test_a_search_waits_at_least_the_second_that_qdrants_limit_has() -> None:
    with pytest.raises(ConfigurationError, match=r"VIEWFINDER_SEARCH_TIMEOUT_S"):
        Settings.load({"VIEWFINDER_SEARCH_TIMEOUT_S": "0.2"})
