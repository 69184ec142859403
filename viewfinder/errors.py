"""Every error that viewfinder raises on purpose.

    ViewfinderError                  exit status 1: the work failed
    ├── ConfigurationError           exit status 2: a flag, a setting, a file or a name that the user gave is wrong
    │   ├── UnknownModelError        no such model, or its weights cannot be had
    │   ├── FilterError              a search filter names no such field or operator, or is too large
    │   └── SourceError              a bucket, key, directory or manifest that does not exist or may not be read
    ├── ObjectError                  one object could not be read: a recorded failure, not the end of the job
    ├── ImageError                   one object is no usable image: a recorded failure, not the end of the job
    ├── StoreError                   Qdrant refused or failed
    │   ├── StoreUnavailableError    Qdrant cannot be reached, or did not answer in time
    │   ├── StoreBusyError           the embedded store is held by another process
    │   ├── CollectionMissingError   the collection does not exist, or no longer
    │   └── ModelMismatchError       the collection was made by another model
    └── ServiceError                 the search service refused or failed; exit status 2 where the request was wrong
        └── ServiceUnavailableError  the service cannot be reached, has no index yet, or did not answer in time

A message says what failed, with which value, what exists instead, and what to do.
"""


class ViewfinderError(Exception):
    """What all of viewfinder's own errors have in common: a text fit to be shown to a user."""

    exit_status = 1


class ConfigurationError(ViewfinderError):
    """A flag, setting, file or name given by the user is wrong."""

    exit_status = 2


class UnknownModelError(ConfigurationError):
    """The model name is not known, or its weights cannot be found."""


class FilterError(ConfigurationError):
    """A filter of a search or a prune cannot be understood."""


class SourceError(ConfigurationError):
    """A source of objects does not exist or may not be read."""


class ObjectError(ViewfinderError):
    """One object could not be read: `reason` is a stable snake_case word; `permanent`, that a retry is idle."""

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.message, self.permanent)


class ImageError(ObjectError):
    """One object is no usable image; its content decides, so trying again changes nothing."""

    def __init__(self, reason: str, message: str, *, permanent: bool = True) -> None:
        super().__init__(reason, message, permanent=permanent)


class StoreError(ViewfinderError):
    """Qdrant refused a request or failed to carry it out."""


class StoreUnavailableError(StoreError):
    """Qdrant cannot be reached, or did not answer before the deadline; the same request may succeed later.

    `retry_after_s` is the pause that Qdrant asked for, in seconds.
    """

    retry_after_s: float | None = None


class StoreBusyError(StoreError):
    """The embedded store is held by another process."""


class CollectionMissingError(StoreError):
    """The collection does not exist, or no longer."""


class ModelMismatchError(StoreError):
    """The collection was made by another model than the one in hand."""


class ServiceError(ViewfinderError):
    """The search service answered with an error, or with something that is no answer of a viewfinder service.

    `code` is the service's stable word (`http_STATUS` where something before it answered), `status` the HTTP status, 0
    where there was no answer. With `request_id` the service's log tells more.
    """

    def __init__(self, code: str, message: str, hint: str = "", request_id: str = "", status: int = 0) -> None:
        super().__init__(code, message, hint, request_id, status)  # all of them, so that it can be pickled
        self.code = code
        self.message = message
        self.hint = hint
        self.request_id = request_id
        self.status = status
        if 400 <= status < 500 and status != 429:
            self.exit_status = ConfigurationError.exit_status

    def __str__(self) -> str:
        place = ", ".join(filter(None, [self.code, self.request_id and f"request {self.request_id}"]))
        return f"{' '.join(filter(None, [self.message, self.hint]))} ({place})"


class ServiceUnavailableError(ServiceError):
    """The service cannot be reached or cannot answer now; the same request may succeed later."""


def _rebuild(kind: type[ObjectError], reason: str, message: str, permanent: bool) -> ObjectError:
    # Exceptions cross process borders by pickle, which forgets keyword-only arguments.
    return kind(reason, message, permanent=permanent)
