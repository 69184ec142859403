"""Files of models on the Hugging Face hub, in this machine's cache."""

import contextlib
import fcntl
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from viewfinder.backoff import Backoff
from viewfinder.errors import UnknownModelError, ViewfinderError

ADVICE = (
    "Name a local checkpoint directory instead, or fill the cache where the hub can be reached and copy it here: "
    "HF_HOME is its directory, HF_HUB_OFFLINE=1 works without the hub."
)
# The hub refuses a client for up to five minutes after too many requests.
_RETRY = Backoff(deadline_s=600.0, first_s=1.0, maximum_s=60.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)


class Snapshot(Protocol):
    """`huggingface_hub.snapshot_download`, or a double."""

    def __call__(
        self, repository: str, *, allow_patterns: list[str], revision: str | None, local_files_only: bool
    ) -> str: ...


class HubBusyError(UnknownModelError):
    """The hub refused a request that may succeed later; `retry_after_s` is how long it asked to wait."""

    retry_after_s: float | None = None


def download(
    name: str,
    repository: str,
    files: Sequence[str],
    revision: str | None,
    *,
    snapshot: Snapshot | None = None,
    retry: Backoff = _RETRY,
) -> Path:
    """Return the directory in the cache with those of `files` that the repository has at `revision` (None: `main`).

    The name of the directory is the commit. A commit whose files are in the cache needs no request. Otherwise one
    process of this machine fetches them while the others wait, and a busy hub is asked again later. Raises
    `UnknownModelError`.
    """
    get = snapshot or _snapshot_download

    def fetch(*, cached: bool = False) -> Path:
        return Path(get(repository, allow_patterns=list(files), revision=revision, local_files_only=cached))

    if revision is not None and is_commit(revision):
        with contextlib.suppress(Exception):  # not in the cache, or not all of it: the request below says why
            return fetch(cached=True)
    with _one_at_a_time(), _translated(name, repository, files, revision):
        return retry(lambda: _unless_busy(name, repository, fetch), retry_on=(HubBusyError,))


def is_commit(revision: str) -> bool:
    """Return True for the hash of a commit, which names the same files for ever."""
    return _COMMIT.fullmatch(revision) is not None


def _snapshot_download(
    repository: str, *, allow_patterns: list[str], revision: str | None, local_files_only: bool
) -> str:
    from huggingface_hub import snapshot_download

    # One snapshot call resolves the repository once: hf_hub_download retries an unreachable hub for 23 s per file.
    folder = snapshot_download(
        repository, allow_patterns=allow_patterns, revision=revision, local_files_only=local_files_only
    )
    return str(folder)


def _unless_busy(name: str, repository: str, fetch: Callable[[], Path]) -> Path:
    """Call `fetch`; raise `HubBusyError` if the hub's answer was one that may pass."""
    try:
        return fetch()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            response: Any = getattr(cause, "response", None)
            if getattr(response, "status_code", None) in _TRANSIENT_STATUSES:
                busy = HubBusyError(
                    f"Model {name!r}: the Hugging Face hub refused {repository!r} with status {response.status_code}."
                )
                with contextlib.suppress(KeyError, TypeError, ValueError):  # absent, or a date
                    busy.retry_after_s = float(response.headers["Retry-After"])
                raise busy from error
            cause = cause.__cause__ or cause.__context__
        raise


@contextlib.contextmanager
def _translated(name: str, repository: str, files: Sequence[str], revision: str | None) -> Iterator[None]:
    """Raise `UnknownModelError` for the hub's errors."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The error of its HTTP library for a lost connection; the library differs between versions of huggingface_hub.
    transport_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        yield
    except ViewfinderError:
        raise
    except HFValidationError as error:
        raise UnknownModelError(
            f"Unknown model {name!r}: {repository!r} is not the name of a hub repository (ORG/NAME)."
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownModelError(
            f"Model {name!r}: the Hugging Face hub has no repository {repository!r}, or does not show it without a "
            f"token (HF_TOKEN). {ADVICE}"
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownModelError(
            f"Model {name!r}: the repository {repository!r} has no revision {revision!r}: neither a branch, a tag nor "
            "a commit."
        ) from error
    except (OSError, transport_error) as error:
        at = f" at {revision!r}" if revision else ""
        raise UnknownModelError(
            f"Model {name!r}: the Hugging Face hub could not be reached, and its cache on this machine lacks "
            f"{repository!r}{at} ({', '.join(files[:2])}). {ADVICE}"
        ) from error


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one process of this machine ask the hub at a time."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".viewfinder.lock").open("w")
    except OSError:  # a cache that can only be read
        file = tempfile.TemporaryFile("w")  # noqa: SIM115 - closed below
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
