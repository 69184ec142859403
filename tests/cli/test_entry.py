"""How a job ends, whatever ends it."""

import os
import signal

import pytest

from viewfinder.cli.entry import finish
from viewfinder.errors import ConfigurationError, StoreError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigurationError("no such bucket"), 2, "error: no such bucket"),
        (StoreError("Qdrant is away"), 1, "error: Qdrant is away"),
        (KeyboardInterrupt(), 1, "goes on from here"),
    ],
)
def test_what_ends_a_job_is_one_message_and_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> int:
        raise error

    assert finish(job) == status
    assert said in capsys.readouterr().err


def test_an_evicted_job_cleans_up_like_an_interrupted_one(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    released: list[bool] = []

    def job() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            released.append(True)
        return 0

    assert finish(job) == 1
    assert released == [True]
    assert "goes on from here" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
