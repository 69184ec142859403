"""`demo/run.py` without its processes: what it leaves to the user, and what it prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo import run
from tests.fixtures.services import Running
from viewfinder.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("place", ["environment", ".env", "file"])
def test_the_users_server_cluster_and_keys_are_left_alone(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: the demo wrote its index into the user's Qdrant.
    for name in [name for name in os.environ if name.startswith("VIEWFINDER_")]:
        monkeypatch.delenv(name)
    values = {
        "RAY_ADDRESS": "head:6379",
        "VIEWFINDER_QDRANT_URL": "http://qdrant.example.org",
        "VIEWFINDER_QDRANT_GRPC_URL": "http://qdrant.example.org:6334",
        "VIEWFINDER_API_KEYS": "0" * 64,
        "VIEWFINDER_API_KEYS_FILE": str(tmp_path / "keys.json"),
        "VIEWFINDER_INDEXES": "photos",
    }
    (tmp_path / "keys.json").write_text("{}")
    (tmp_path / "a.toml").write_text('qdrant_url = "http://qdrant.example.org"')
    monkeypatch.chdir(tmp_path)
    if place == ".env":
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    for name, value in (values if place == "environment" else {}).items():
        monkeypatch.setenv(name, value)
    if place == "file":
        monkeypatch.setenv("VIEWFINDER_CONFIG", str(tmp_path / "a.toml"))
    monkeypatch.setenv("VIEWFINDER_PORT", "8123")
    monkeypatch.setattr(run, "DATA_DIR", tmp_path / ".demo")
    run.leave_settings_of_user()
    settings = Settings.load()
    assert settings.model_fields_set == {"port"}
    assert (settings.qdrant_url, settings.ray_address, settings.api_keys) == (None, None, ())


@pytest.mark.slow
def test_hits_are_printed_without_asking_a_proxy(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Regression: HTTP_PROXY caught the searches of this machine.
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    run.show(running.url, "a red car")
    out = capsys.readouterr().out
    assert "\u201ca red car\u201d" in out
    assert out.index("2.jpg") < out.index("a red car", out.index("2.jpg"))


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    code = (
        "import sys; from demo import run; run.leave_settings_of_user = lambda: sys.exit(run.say('\u6d77')); run.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (b"\\u25b8 \\u6d77", b"")
