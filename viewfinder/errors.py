"""The errors that viewfinder raises.

    ViewfinderError                  exit status 1: the work failed
    ├── ConfigurationError           exit status 2: a flag, setting, file or name given by the user is wrong
    │   ├── UnknownModelError        the model is unknown, or its weights cannot be found
    │   ├── FilterError              a search filter has an unknown field or operator, or is too large
    │   ├── KeyFilterError           the filter of an API key does not fit the fields of the index
    │   └── SourceError              a bucket, key, directory or manifest does not exist or may not be read
    │       └── SourceUnavailableError   its endpoint cannot be reached or is overloaded
    ├── ObjectError                  one object could not be read: recorded as a failure, the job goes on
    │   └── ImageError               its content is not a usable image
    ├── StoreError                   Qdrant refused or failed
    │   ├── StoreUnavailableError    Qdrant cannot be reached or did not answer in time
    │   │   └── StoreTimeoutError    Qdrant did not answer in time
    │   ├── WordsUnavailableError    the server, or the index that it made, cannot rank by words
    │   ├── StoreBusyError           another program holds the embedded store, or another run the lock of the index
    │   ├── CollectionMissingError   the collection does not exist or was dropped
    │   └── ModelMismatchError       the collection was made by another model
    ├── BatchError                   some searches of a batch failed: it has the results of the others
    └── ServiceError                 the search service refused or failed; exit status 2 where the request was wrong
        └── ServiceUnavailableError  the service cannot be reached, has no index yet, or did not answer in time

A message says what failed, with which value, what exists instead, and what to do.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class ViewfinderError(Exception):
    """Base of all errors; its text is written for users."""

    exit_status = 1


class ConfigurationError(ViewfinderError):
    """A flag, setting, file or name given by the user is wrong."""

    exit_status = 2


class UnknownModelError(ConfigurationError):
    """The model name is not known, or its weights cannot be found."""


class FilterError(ConfigurationError):
    """A filter of a search or a prune is invalid."""


class KeyFilterError(ConfigurationError):
    """The filter of an API key does not fit the fields of the index, so the key sees nothing."""


class SourceError(ConfigurationError):
    """A source of objects does not exist or may not be read."""


class SourceUnavailableError(SourceError):
    """A source cannot be listed now: its endpoint cannot be reached or is overloaded."""


class ObjectError(ViewfinderError):
    """One object could not be read: `reason` is a stable snake_case word; a `permanent` error repeats on a retry.

    `version` is that of the content that was refused (`viewfinder.sources.versions.Version`), None if it is not known.
    """

    version: tuple[str, int, str] | None = None

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.message, self.permanent)


class ImageError(ObjectError):
    """One object is not a usable image. Its content decides, so the error is permanent by default."""

    def __init__(self, reason: str, message: str, *, permanent: bool = True) -> None:
        super().__init__(reason, message, permanent=permanent)


class StoreError(ViewfinderError):
    """Qdrant refused a request or failed to execute it."""


class StoreUnavailableError(StoreError):
    """Qdrant cannot be reached or did not answer in time; the same request may succeed later.

    `retry_after_s` is Qdrant's Retry-After in seconds, None if it sent none.
    """

    retry_after_s: float | None = None


class StoreTimeoutError(StoreUnavailableError):
    """Qdrant can be reached but did not answer in time."""


class WordsUnavailableError(StoreError):
    """The server, or the index of words that it made, cannot rank by words; a search by vector can be answered."""


class StoreBusyError(StoreError):
    """Another program holds the embedded store, or another run the upgrade lock of the index."""


class CollectionMissingError(StoreError):
    """The collection does not exist or was dropped."""


class ModelMismatchError(StoreError):
    """The collection was made by another model than that of the run."""


class ServiceError(ViewfinderError):
    """The search service answered with an error, or another program answered.

    `code` is the service's stable snake_case word (`http_STATUS` if a proxy answered), `status` the HTTP status, 0
    without an answer. The service's log has details under `request_id`.
    """

    def __init__(self, code: str, message: str, hint: str = "", request_id: str = "", status: int = 0) -> None:
        super().__init__(code, message, hint, request_id, status)  # all arguments, so that it can be pickled
        self.code = code
        self.message = message
        self.hint = hint
        self.request_id = request_id
        self.status = status
        if 400 <= status < 500 and status != 429:
            self.exit_status = ConfigurationError.exit_status

    def __str__(self) -> str:
        place = ", ".join(filter(None, [self.code, self.request_id and f"request {self.request_id}"]))
        return f"{as_sentences(self.message, self.hint)} ({place})"


class ServiceUnavailableError(ServiceError):
    """The service cannot be reached or cannot answer now; the same request may succeed later."""


class BatchError(ViewfinderError):
    """Some searches of a batch failed. `answers` has the result or the error of each search, in their order."""

    def __init__(self, answers: Sequence[object]) -> None:
        super().__init__(answers)
        self.answers = answers
        self.errors = {place: each for place, each in enumerate(answers) if isinstance(each, ViewfinderError)}
        self.exit_status = next(iter(self.errors.values())).exit_status

    def __str__(self) -> str:
        place, first = next(iter(self.errors.items()))
        return f"{len(self.errors)} of {len(self.answers)} searches failed. searches.{place}: {first}"


def all_results(answers: Sequence[T | ViewfinderError]) -> list[T]:
    """The results of a batch; raises `BatchError` if there is an error among them."""
    results = [each for each in answers if not isinstance(each, ViewfinderError)]
    if len(results) < len(answers):
        raise BatchError(answers)
    return results


def as_sentences(message: str, hint: str) -> str:
    """A message and a hint, with a full stop between them."""
    end = "." if hint and message and message[-1] not in ".!?:" else ""
    return f"{message}{end} {hint}".strip()


def _rebuild(kind: type[ObjectError], reason: str, message: str, permanent: bool) -> ObjectError:
    # Pickle, which carries exceptions between processes, drops keyword-only arguments.
    return kind(reason, message, permanent=permanent)
