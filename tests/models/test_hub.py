"""Downloads from the model hub, with a double of the hub."""

import errno
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest

from viewfinder.backoff import Backoff
from viewfinder.errors import UnknownModelError
from viewfinder.models.hub import Snapshot, download
from viewfinder.models.registry import find

COMMIT = "c" * 40


class Hub:
    """A hub whose `main` is one commit, and this machine's cache of it. Refuses with the statuses of `refusals`."""

    def __init__(self, cache: Path, *refusals: int) -> None:
        self.requests: list[str | None] = []
        self.refusals = deque(refusals)
        self._folder = cache / COMMIT

    def __call__(
        self, repository: str, *, allow_patterns: list[str], revision: str | None, local_files_only: bool
    ) -> str:
        if local_files_only:
            if not self._folder.exists():
                raise FileNotFoundError(repository)
            return str(self._folder)
        self.requests.append(revision)
        if self.refusals:
            raise RefusedError(self.refusals.popleft())
        self._folder.mkdir(exist_ok=True)
        return str(self._folder)


class RefusedError(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status, headers={"Retry-After": "7"})


@pytest.fixture(autouse=True)
def lock_in_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def get(hub: Hub, revision: str | None, slept: list[float] | None = None) -> Path:
    clock = iter(range(0, 10_000, 100))
    slept = [] if slept is None else slept
    retry = Backoff(deadline_s=600, clock=lambda: float(next(clock)), sleep=slept.append)
    return download("hf-hub:o/n", "o/n", ["a.json"], revision, snapshot=hub, retry=retry)


def test_the_folder_names_the_commit(tmp_path: Path) -> None:
    assert get(Hub(tmp_path), None).name == COMMIT


def test_a_pinned_commit_in_the_cache_needs_no_request(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    get(hub, COMMIT)
    get(hub, COMMIT)
    assert hub.requests == [COMMIT]
    get(hub, "v1")
    assert hub.requests == [COMMIT, "v1"], "a tag may have moved"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again_when_it_said(status: int, tmp_path: Path) -> None:
    slept: list[float] = []
    assert get(Hub(tmp_path, status, status), COMMIT, slept).name == COMMIT
    assert len(slept) == 2
    assert min(slept) >= 7


def test_a_hub_that_stays_busy_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"refused 'o/n' with status 429\. Gave up after"):
        get(Hub(tmp_path, *[429] * 50), None)


def test_other_refusals_are_final(tmp_path: Path) -> None:
    hub = Hub(tmp_path, 403)
    with pytest.raises(UnknownModelError, match="could not be reached"):
        get(hub, None)
    assert hub.requests == [None]


def test_a_name_may_end_in_a_revision() -> None:
    found = find("hf-hub:org/name@v1.2")
    assert (found.name, found.hub, found.revision) == ("hf-hub:org/name@v1.2", "org/name", "v1.2")
    known = find("ViT-B-32::openai@main")
    assert (known.hub, known.revision, known.dimension) == (find("ViT-B-32::openai").hub, "main", 512)
    assert find("ViT-B-32::openai").revision == ""


def failing(error: Exception) -> Snapshot:
    def snapshot(repository: str, *, allow_patterns: list[str], revision: str | None, local_files_only: bool) -> str:
        raise error

    return snapshot


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written_is_named(number: int, tmp_path: Path) -> None:
    # Regression: the hub "could not be reached".
    full = RuntimeError("data processing error")
    full.__cause__ = OSError(number, os.strerror(number), "/cache/blobs/x.incomplete")
    error = OSError("download failed")
    error.__cause__ = full
    with pytest.raises(UnknownModelError, match="lacks 'o/n'") as raised:
        download("m", "o/n", ["a.json"], None, snapshot=failing(error))
    assert f"(a.json), and {tmp_path} cannot be written ({os.strerror(number)})." in str(raised.value)
    assert "could not be reached" not in str(raised.value)


def test_why_the_hub_cannot_be_reached_is_said() -> None:
    error = OSError("the request failed")
    error.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    with pytest.raises(
        UnknownModelError, match=r"could not be reached \(\[Errno 111\] Connection refused\), and the cache"
    ):
        download("m", "o/n", ["a.json"], None, snapshot=failing(error))
    refused = RefusedError(403)
    with pytest.raises(UnknownModelError, match=r"could not be reached \(status 403\), and the cache"):
        download("m", "o/n", ["a.json"], None, snapshot=failing(refused))


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9/"])
def test_a_proxy_that_cannot_be_used_is_named(proxy: str, tmp_path: Path) -> None:
    # Regression: a traceback of the hub's HTTP library.
    program = "from viewfinder.models.hub import download; download('m', 'o/n', ['a.json'], None)"
    environment = {**os.environ, "ALL_PROXY": proxy, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "ConfigurationError: Model 'm': the Hugging Face hub cannot be asked. ALL_PROXY" in last
    assert "unset the variable for this program." in last


def test_another_error_is_not_translated() -> None:
    with pytest.raises(ValueError, match="a defect"):
        download("m", "o/n", ["a.json"], None, snapshot=failing(ValueError("a defect")))
