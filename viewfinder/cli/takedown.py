"""`viewfinder takedown` and `viewfinder restore`: take images down, and lift takedowns."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn, Protocol

import typer

from viewfinder.cli import output
from viewfinder.cli.entry import FAILED
from viewfinder.cli.options import (
    ConfigOption,
    IndexNameOption,
    JsonOption,
    ServerOption,
    SubjectArgument,
    YesOption,
    examples,
)
from viewfinder.cli.service import find_service, require_index
from viewfinder.client import Client, Removal, Restoration
from viewfinder.client.requests import image_id, image_uri
from viewfinder.errors import ConfigurationError, ServiceError
from viewfinder.extras import packages_of
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.store import Store

TAKEDOWN_EPILOG = examples(
    "viewfinder takedown s3://bucket/private.jpg",
    "viewfinder takedown 0e9c1f5e-5f4f-5b52-9d6b-6a1f8f1c2f0a --yes",
)
RESTORE_EPILOG = examples("viewfinder restore s3://bucket/private.jpg")


def takedown_command(
    subject: SubjectArgument,
    yes: YesOption = False,
    index: IndexNameOption = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an image down: delete it from the index.

    Later runs skip it; the file itself is not touched. A service with API keys needs an admin key in
    VIEWFINDER_API_KEY. Without a service, the store is changed directly.
    """
    image_id(subject)  # refused before anything is opened
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("Not a terminal: pass --yes to confirm.")
    with _takedowns(Settings.load(config=config, server=server, index=index)) as takedowns:
        if not yes:
            uri = takedowns.uri(subject) or f"{subject} (which is not in the index)"
            typer.confirm(f"Take down {uri}? Later runs will skip it.", abort=True, err=True)
        removal = takedowns.take_down(subject)
    name = removal.uri or removal.id
    if as_json:
        output.print_json(asdict(removal))
    else:
        state = "is taken down" if removal.removed else "was taken down before" if removal.before else ""
        state = state or "was not in the index"
        output.print_text(f"{name} {state}; later runs skip it. To undo: viewfinder restore {removal.id}")
    if not (removal.removed or removal.before):
        _exit_with_problem(f"The index has no image {subject!r}.", removal.nearest, as_json=as_json)


def restore_command(
    subject: SubjectArgument,
    index: IndexNameOption = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the takedown of an image.

    The next run of 'viewfinder index' adds the image again. A service with API keys needs an admin key in
    VIEWFINDER_API_KEY. Without a service, the store is changed directly.
    """
    image_id(subject)
    with _takedowns(Settings.load(config=config, server=server, index=index)) as takedowns:
        restoration = takedowns.restore(subject)
    if as_json:
        output.print_json(asdict(restoration))
    elif restoration.restored:
        output.print_text(f"The takedown of {subject} is lifted; the next run of 'viewfinder index' adds it again.")
    if not restoration.restored:
        _exit_with_problem(f"{subject!r} was not taken down; nothing to do.", restoration.nearest, as_json=as_json)


def _exit_with_problem(problem: str, nearest: Sequence[str], *, as_json: bool) -> NoReturn:
    hint = f" Nearest: {', '.join(map(repr, nearest))}." if nearest else ""
    output.report_error(f"{problem}{hint}", FAILED, as_json=as_json)
    raise typer.Exit(FAILED)


class _TakedownsOfIndex(Protocol):
    def uri(self, subject: str) -> str | None: ...

    def take_down(self, subject: str) -> Removal: ...

    def restore(self, subject: str) -> Restoration: ...


class _ThroughService:
    """Takedowns through a service, with its admin key."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.take_down = client.take_down
        self.restore = client.restore

    def uri(self, subject: str) -> str | None:
        try:
            return self._client.image(subject).uri
        except ServiceError as error:
            if error.status != 404:
                raise
            return None


class _InStore:
    """Takedowns in a store that this process has opened."""

    def __init__(self, store: "Store", index: str) -> None:
        self._store = store
        self._index = index

    def uri(self, subject: str) -> str | None:
        from viewfinder.query.takedowns import stored_uri

        return stored_uri(self._store, self._index, image_id(subject), image_uri(subject) or "")

    def take_down(self, subject: str) -> Removal:
        from viewfinder.query.takedowns import take_down

        return take_down(self._store, self._index, image_id(subject), image_uri(subject) or "")

    def restore(self, subject: str) -> Restoration:
        from viewfinder.query.takedowns import restore

        return restore(self._store, self._index, image_id(subject), image_uri(subject) or "")


@contextmanager
def _takedowns(settings: Settings) -> Iterator[_TakedownsOfIndex]:
    """Takedowns through a service if there is one, else in the store."""
    if (client := find_service(settings)) is not None:
        with client:
            yield _ThroughService(client)
        return
    with packages_of("local", "'viewfinder takedown'"):
        from viewfinder.cluster.session import store_of

    with store_of(settings) as store:
        require_index(store, settings.index)
        yield _InStore(store, settings.index)
