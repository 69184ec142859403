"""Exit statuses and messages of commands that end early."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from viewfinder.cli.entry import STOPPED, exit_status, job, open_execution
from viewfinder.errors import ConfigurationError, StoreError
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.settings import Settings


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigurationError("no such bucket"), 2, "error: no such bucket"),
        (StoreError("Qdrant is away"), 1, "error: Qdrant is away"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_an_error_is_one_message_and_a_status(
    error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_status(command) == status
    assert says in capsys.readouterr().err


def test_an_interrupted_job_says_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, job():
        raise KeyboardInterrupt
    assert ended.value.exit_code == 1
    assert "run the same command again to continue" in capsys.readouterr().err


def test_an_interrupted_job_says_so_before_it_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end of Ray ended the program on a busy machine, and nothing was said."""
    said: list[str] = []
    seen: list[type[BaseException] | None] = []
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(InProcessExecutor, "close", lambda _: said.append(capsys.readouterr().err))

    @contextmanager
    def report() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            seen.append(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else type(error))
            raise

    with pytest.raises(typer.Exit) as ended, job(), report(), open_execution(Settings.load(), "index", on_ray=False):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 1
    assert said == [f"{STOPPED}\n"]
    assert capsys.readouterr().err == ""
    assert seen == [KeyboardInterrupt]


def test_sigterm_cleans_up_like_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    released: list[bool] = []

    def evicted() -> None:
        with job():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            finally:
                released.append(True)

    with pytest.raises(typer.Exit):
        evicted()
    assert released == [True]
    assert "run the same command again to continue" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
