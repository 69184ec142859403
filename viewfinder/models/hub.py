"""Files of models on the Hugging Face hub, in this machine's cache."""

import contextlib
import errno
import fcntl
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from viewfinder.addresses import proxy_problem
from viewfinder.backoff import Backoff
from viewfinder.errors import ConfigurationError, UnknownModelError, ViewfinderError

ADVICE = (
    "Name a local checkpoint directory instead, or fill the cache where the hub can be reached and copy it here: "
    "HF_HOME is its directory, HF_HUB_OFFLINE=1 works without the hub."
)
# The hub refuses a client for up to five minutes after too many requests.
_RETRY = Backoff(deadline_s=600.0, first_s=1.0, maximum_s=60.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
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


def cached(
    name: str, repository: str, files: Sequence[str], revision: str | None, *, snapshot: Snapshot | None = None
) -> Path | None:
    """Return the directory that `download` would return, if the cache has it. Needs no request.

    Some of `files` may be missing in it. Raises `UnknownModelError`.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    get = snapshot or _snapshot_download
    with _translated(name, repository, files, revision):
        try:
            return Path(get(repository, allow_patterns=list(files), revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            return None


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
        for cause in _causes(error):
            response: Any = getattr(cause, "response", None)
            if getattr(response, "status_code", None) in _TRANSIENT_STATUSES:
                busy = HubBusyError(
                    f"Model {name!r}: the Hugging Face hub refused {repository!r} with status {response.status_code}."
                )
                with contextlib.suppress(KeyError, TypeError, ValueError):  # absent, or a date
                    busy.retry_after_s = float(response.headers["Retry-After"])
                raise busy from error
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
        lacks = f"the cache on this machine lacks {repository!r}{at} ({', '.join(files[:2])})"
        if (unwritable := _unwritable(error)) is not None:
            raise UnknownModelError(f"Model {name!r}: {lacks}, and {unwritable}. {ADVICE}") from error
        raise UnknownModelError(
            f"Model {name!r}: the Hugging Face hub could not be reached ({_cause(error)}), and {lacks}. {ADVICE}"
        ) from error
    except Exception as error:
        if (problem := proxy_problem(error)) is None:
            raise
        raise ConfigurationError(f"Model {name!r}: the Hugging Face hub cannot be asked. {problem}") from error


def _unwritable(error: Exception) -> str | None:
    """Return why the cache cannot be written, if that is the error."""
    from huggingface_hub import constants

    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in _UNWRITABLE:
            return f"{constants.HF_HUB_CACHE} cannot be written ({each.strerror})"
    return None


def _cause(error: Exception) -> str:
    """Return the first line of the error that caused this one, or the status of an answer."""
    for each in _causes(error):
        if (status := getattr(getattr(each, "response", None), "status_code", None)) is not None:
            return f"status {status}"
    *_, first = _causes(error)
    return next(iter(str(first).splitlines()), "") or type(first).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


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
