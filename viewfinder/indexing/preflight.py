"""Checks and choices before a run starts, so that a mistake is reported within seconds."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from viewfinder.errors import ObjectError, SourceError, SourceUnavailableError
from viewfinder.indexing.options import IndexOptions
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.registry import find
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.captions import check_captions
from viewfinder.sources.objects import Objects
from viewfinder.sources.patterns import Patterns
from viewfinder.sources.uris import source_uri, spellings
from viewfinder.store import Collection, Store, StoreAddress, connect
from viewfinder.store.schema import ModelIdentity

logger = logging.getLogger("viewfinder.index")

# Objects of a source to try before giving up.
_MAX_TRIED = 20


def check(options: IndexOptions, settings: Settings) -> None:
    """Check names, sources and store from this machine, before anything slow is started."""
    check_target(options.model or settings.model, settings)
    check_sources(options, ObjectAccess.of(settings))


def check_target(model: str, settings: Settings) -> None:
    """Check the model's name and that the Qdrant server answers. The embedded store is checked when it is opened."""
    find(model)
    address = StoreAddress.of(settings)
    if address.url is not None:
        with connect(address) as store:
            store.check()


def check_sources(options: IndexOptions, access: ObjectAccess) -> None:
    """Check that the patterns are valid, one of the sources can be listed, and the given captions files exist."""
    Patterns(options.include, options.exclude)
    with Objects(access) as objects:
        reachable(options.sources, objects.check)
        for captions in options.captions:
            check_captions(captions, objects)


def check_access(sources: Sequence[str], objects: Objects, store: Store) -> None:
    """Query the store, and list one of the sources and read one of its objects.

    Workers have their own credentials, network and environment, so this runs on one before the first of a million
    objects is processed.
    """

    def check_source(uri: str) -> None:
        objects.check(uri)
        _read_one(uri, objects)

    store.check()
    reachable(sources, check_source)


def reachable(sources: Iterable[str], check: Callable[[str], None]) -> tuple[list[str], dict[str, str]]:
    """Return the sources that pass `check`, and the others with the reason.

    Raises the first error if none passes, and `SourceUnavailableError` if an endpoint does not answer.
    `check` is called with the canonical URI, and if it raises `SourceError` with the other spellings of its name.
    """
    found: dict[str, None] = {}
    gone: dict[str, str] = {}
    first: SourceError | None = None
    for uri in dict.fromkeys(map(source_uri, sources)):
        try:
            found[_spelled(uri, check)] = None
        except SourceUnavailableError:
            raise  # it is not gone
        except SourceError as error:
            first = first or error
            gone[uri] = str(error)
    if first is not None and not found:
        raise first
    return list(found), gone


def _spelled(uri: str, check: Callable[[str], None]) -> str:
    """Return `uri`, or another spelling of it, that passes `check`; raise the error of `uri`."""
    try:
        check(uri)
    except SourceUnavailableError:
        raise
    except SourceError:
        for other in spellings(uri)[1:]:
            with suppress(SourceError):
                check(other)
                return other
        raise
    return uri


def choose_model(options: IndexOptions, settings: Settings, store: Store) -> Checkpoint:
    """Locate the model of this run: from the options, else of the live collection, else from the settings."""
    live = store.collections.live(settings.index)
    name = options.model or (live.metadata.model_name if live else settings.model)
    # If the weights behind a hub tag have changed, it is another model and must not write into this collection.
    known = live.metadata if live and name == live.metadata.model_name else None
    logger.info("Model %s%s", name, "" if live is None else f", live collection {live.name}")
    return locate(name) if known is None else locate(name, expect=known.fingerprint, revisions=known.revisions)


def model_of(collection: Collection) -> Checkpoint:
    """The model of a collection. Raises `UnknownModelError` or `ModelMismatchError` if its files are not here."""
    made_by = collection.metadata
    return locate(made_by.model_name, expect=made_by.fingerprint, revisions=made_by.revisions)


def open_collection(store: Store, settings: Settings, checkpoint: Checkpoint, *, create: bool) -> Collection | None:
    """Open the live collection, or with `create` create it if missing. Raises `ModelMismatchError`."""
    if not create and store.collections.live(settings.index) is None:
        return None
    return store.collections.open(settings.index, ModelIdentity.of(checkpoint))


def _read_one(source: str, objects: Objects) -> None:
    """Read one of the first objects; warn if access to all of them is denied, as it may be allowed to others."""
    refused: ObjectError | None = None
    for _, info in zip(range(_MAX_TRIED), objects.list(source), strict=False):
        if info.archived:
            continue
        try:
            objects.read(info.uri, max_bytes=1)  # one byte is enough to test access
        except ObjectError as error:
            if error.reason == "too_many_bytes":
                return
            if error.reason == "access_denied":
                refused = error
        else:
            return
    if refused is not None:
        logger.warning(
            "%r can be listed, but none of its first objects can be read: %s Objects without access count as failed. "
            "The credentials need s3:GetObject on them.",
            source,
            refused.message,
        )
