"""Settings: read once, every problem in one message, every field in the docs."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from viewfinder.errors import ConfigurationError
from viewfinder.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_the_defaults_need_nothing() -> None:
    settings = Settings.load()
    assert settings.model == "ViT-B-32::openai"
    assert settings.index == "images"
    assert settings.data_dir == Path("~/.viewfinder").expanduser()
    assert settings.qdrant_url is None


def test_the_environment_sets_and_an_argument_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(ConfigurationError, match="VIEWFINDER_INDEX"):
        Settings.load(index=name)


def test_a_secret_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_QDRANT_API_KEY", "hush-hush")
    assert "hush-hush" not in repr(Settings.load())


def test_settings_do_not_change() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.index = "other"  # type: ignore[misc]


def test_every_setting_stands_in_the_docs_with_its_description() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or PREFIX + name.upper()
        assert f"| `{variable}` |" in page
        assert f"| {field.description} |" in page
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert len(listed) == len(Settings.model_fields), "a setting in the docs that is no more"


@pytest.mark.parametrize("module", ["viewfinder", "viewfinder.cli.main", "viewfinder.settings", "viewfinder.store"])
def test_light_modules_load_neither_torch_nor_ray(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'torch', 'ray', 'open_clip'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_ray_address_has_no_prefix_and_the_wrong_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFINDER_RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(ConfigurationError, match="VIEWFINDER_RAY_ADDRESS: no such setting"):
        Settings.load()
