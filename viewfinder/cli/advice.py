"""Errors of searches, with what to do on the command line instead of in HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

from viewfinder.errors import ConfigurationError, ServiceError

_USE_IMAGE = "Pass a file with --image."
_USE_HELP = "See 'viewfinder search --help'."
# Codes of a service, the same as the reasons of an error in this process.
_OF_IMAGE_URL = frozenset({"forbidden_address", "fetch_failed", "image_url_disabled"})
# Parts of hints that are about requests.
_HTTP_WORDS = ("GET /", "POST /", "`")


@contextmanager
def advice(*, given_id: str | None = None) -> Iterator[None]:
    """Replace the hints of errors that are about HTTP requests; name an unknown image as the user did, `given_id`."""
    try:
        yield
    except ServiceError as error:
        message, hint = _advised(error.code, error.message, error.hint, given_id)
        raise type(error)(error.code, message, hint, error.request_id, error.status) from error
    except ConfigurationError as error:
        if not hasattr(error, "hint"):
            raise
        code = getattr(error, "reason", "not_found" if str(error).startswith("id: ") else "")
        message, hint = _advised(code, str(getattr(error, "message", error)), error.hint, given_id)
        raise ConfigurationError(f"{message} {hint}".rstrip()) from error


def _advised(code: str, message: str, hint: str, given_id: str | None) -> tuple[str, str]:
    if code == "not_found" and given_id is not None and message.startswith("id: "):
        return f"--id: the index holds no image {given_id!r}.", "Pass the URI, path or id of a hit, or --image."
    if code in _OF_IMAGE_URL:
        return message, _USE_IMAGE
    if any(word in hint for word in _HTTP_WORDS):
        return message, _USE_HELP
    return message, hint
