"""Checks and choices before a run starts, so that a mistake is reported within seconds."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.progress import ListingProgress
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.registry import find
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.captions import Captions, check_captions
from viewfinder.sources.manifest import Manifest, write_manifest
from viewfinder.sources.objects import Objects
from viewfinder.sources.patterns import Patterns
from viewfinder.sources.uris import canonical_uri
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
    """Check that the patterns are valid and that the sources and the captions file exist."""
    Patterns(options.include, options.exclude)
    with Objects(access) as objects:
        for source in options.sources:
            objects.check(canonical_uri(source))
        if options.captions is not None:
            check_captions(options.captions, objects)


def check_access(sources: Sequence[str], objects: Objects, store: Store) -> None:
    """List each source, read one of its objects and query the store.

    Workers have their own credentials, network and environment, so this runs on one before the first of a million
    objects is processed.
    """
    store.check()
    for source in sources:
        objects.check(canonical_uri(source))
        _read_one(source, objects)


def choose_model(options: IndexOptions, settings: Settings, store: Store) -> Checkpoint:
    """Locate the model of this run: from the options, else of the live collection, else from the settings."""
    live = store.collections.live(settings.index)
    name = options.model or (live.metadata.model_name if live else settings.model)
    # If the weights behind a hub tag have changed, it is another model and must not write into this collection.
    expect = live.metadata.fingerprint if live and name == live.metadata.model_name else None
    logger.info("Model %s%s", name, "" if live is None else f", live collection {live.name}")
    return locate(name, expect=expect)


def open_collection(store: Store, settings: Settings, checkpoint: Checkpoint, *, create: bool) -> Collection | None:
    """Open the live collection, or with `create` create it if missing. Raises `ModelMismatchError`."""
    if not create and store.collections.live(settings.index) is None:
        return None
    return store.collections.open(settings.index, ModelIdentity.of(checkpoint))


def list_objects(
    options: IndexOptions, access: ObjectAccess, directory: Path, progress: ListingProgress | None = None
) -> Manifest:
    """List the sources into a manifest in `directory`: each object once, with its caption."""
    with Objects(access) as objects, _captions(options, objects) as captions:
        manifest = write_manifest(
            options.sources,
            directory,
            objects,
            captions=captions,
            include=options.include,
            exclude=options.exclude,
            max_objects=options.max_objects,
            progress=progress,
        )
        if captions is not None and options.max_objects is None and (unmatched := captions.unmatched()):
            if options.prune and captions.matched() == 0:
                raise ConfigurationError(
                    f"--prune: none of the {unmatched:,} captions in {options.captions!r} belongs to a listed object, "
                    "so a prune would remove every caption. Check the keys in the file."
                )
            logger.warning("%d captions in %s do not belong to any listed object", unmatched, options.captions)
    return manifest


def _read_one(source: str, objects: Objects) -> None:
    """Read one of the first objects; warn if access to all of them is denied, as it may be allowed to others."""
    refused: ObjectError | None = None
    for _, info in zip(range(_MAX_TRIED), objects.list(canonical_uri(source)), strict=False):
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


def _captions(options: IndexOptions, objects: Objects) -> "AbstractContextManager[Captions | None]":
    return nullcontext() if options.captions is None else Captions.load(options.captions, objects)
