"""Exit statuses and messages of commands that end early."""

import os
import signal

import pytest
import typer

from viewfinder.cli.entry import exit_status, job
from viewfinder.errors import ConfigurationError, StoreError


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
