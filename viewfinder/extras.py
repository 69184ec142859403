"""The optional packages: `pip install viewfinder` alone gives the client and the command line."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from viewfinder.errors import ConfigurationError


def install(extra: str) -> str:
    """The command that installs an extra, `local` or `all`."""
    return f"pip install 'viewfinder[{extra}]'"


@contextmanager
def packages_of(extra: str, user: str) -> Iterator[None]:
    """Turn a missing package, needed by `user`, into a `ConfigurationError` with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{user} needs the package {error.name}, which is not installed: {install(extra)}"
        ) from error


def require(package: str) -> None:
    """Raise `ModuleNotFoundError` if a package is missing, without importing it."""
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
