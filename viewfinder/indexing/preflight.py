"""What is checked, and chosen, before a pipeline starts: each mistake is told in one message within seconds."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from viewfinder.cluster import progress
from viewfinder.cluster.pipeline import told_as_ours
from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.reach import Reach
from viewfinder.models.checkpoint import Checkpoint, find, locate
from viewfinder.settings import Settings
from viewfinder.sources.captions import Captions, check_captions
from viewfinder.sources.manifest import Manifest, Patterns, write_manifest
from viewfinder.sources.objects import ObjectAccess, Objects, canonical_uri
from viewfinder.store import Collection, Store, StoreAddress, connect

logger = logging.getLogger("viewfinder.index")

_LOOKED_AT = 20
WAITING_TOLD_S = 30.0


def check_reach(options: IndexOptions, settings: Settings) -> Reach:
    """Names, sources and store, as this machine sees them, before Ray is started."""
    reach = check_target(options.model or settings.model, settings)
    check_sources(options, reach)
    return reach


def check_target(model: str, settings: Settings) -> Reach:
    """The model's name, and whether a Qdrant server answers; the embedded store is checked by opening it."""
    find(model)
    access = ObjectAccess(
        endpoint_url=settings.s3_endpoint_url, anonymous=settings.s3_anonymous, threads=settings.fetch_threads
    )
    reach = Reach(access, StoreAddress.of(settings))
    if reach.address.url is not None:
        with connect(reach.address) as store:
            store.check()
    return reach


def check_sources(options: IndexOptions, reach: Reach) -> None:
    """Whether the patterns make sense, the sources exist and the captions file is one."""
    Patterns(options.include, options.exclude)
    with Objects(reach.access) as objects:
        for source in options.sources:
            objects.check(canonical_uri(source))
        if options.captions is not None:
            check_captions(options.captions, objects)


def choose_model(options: IndexOptions, settings: Settings, store: Store) -> Checkpoint:
    """The model of this run: the one asked for, else that of the live collection, else the settings'."""
    live = store.collections.live(settings.index)
    name = options.model or (live.metadata.model_name if live else settings.model)
    # A hub tag whose weights moved is another model; it must not write into what the old one made.
    expect = live.metadata.fingerprint if live and name == live.metadata.model_name else None
    logger.info("Model %s%s", name, "" if live is None else f", live collection {live.name}")
    return locate(name, expect=expect)


def open_collection(store: Store, settings: Settings, checkpoint: Checkpoint, *, create: bool) -> Collection | None:
    """The live collection, made where there is none and `create` says so. Raises `ModelMismatchError`."""
    if not create and store.collections.live(settings.index) is None:
        return None
    return store.collections.open(
        settings.index, checkpoint.name, recorded_spec(checkpoint), checkpoint.fingerprint, checkpoint.dimension
    )


def recorded_spec(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a collection keeps of its model; where this machine has the weights means nothing to the next."""
    return {name: value for name, value in asdict(checkpoint.spec).items() if name != "directory"}


def list_objects(options: IndexOptions, access: ObjectAccess, directory: Path) -> Manifest:
    """List the sources into a manifest in `directory`, each object once, with its caption."""
    with Objects(access) as objects, _captions(options, objects) as captions, progress.listing() as listed:
        manifest = write_manifest(
            options.sources,
            directory,
            objects,
            captions=captions,
            include=options.include,
            exclude=options.exclude,
            limit=options.max_objects,
            progress=listed,
        )
        if captions is not None and options.max_objects is None and (unmatched := captions.unmatched()):
            if options.prune and captions.matched() == 0:
                raise ConfigurationError(
                    f"--prune: none of the {unmatched:,} captions of {options.captions!r} belongs to a listed object, "
                    "and a prune would take every caption away. Check the keys of the file."
                )
            logger.warning("%d captions of %s belong to none of the listed objects", unmatched, options.captions)
    return manifest


def check_worker(sources: Sequence[str], reach: Reach) -> None:
    """Do on a worker what the driver could do: list each source, read one object, ask the store.

    Workers have their own credentials, network and environment; a job must not find that out a million objects later.
    """
    import ray

    with told_as_ours():
        trial = ray.remote(num_cpus=0.01)(_try_reach).remote(list(sources), reach)
        while not ray.wait([trial], timeout=WAITING_TOLD_S)[0]:
            logger.info("Waiting for a worker of the cluster to take a task")
        ray.get(trial)


def _try_reach(sources: Sequence[str], reach: Reach) -> None:
    with connect(reach.address) as store, Objects(reach.access) as objects:
        store.check()
        for source in sources:
            objects.check(canonical_uri(source))
            _read_one(source, objects)


def _read_one(source: str, objects: Objects) -> None:
    """Read the first readable of a few objects; only a refusal counts against the credentials."""
    refused: ObjectError | None = None
    for _, info in zip(range(_LOOKED_AT), objects.list(canonical_uri(source)), strict=False):
        try:
            objects.read(info.uri, max_bytes=1)  # that it may be read is all we ask
        except ObjectError as error:
            if error.reason == "too_many_bytes":
                return
            if error.reason == "access_denied":
                refused = error
        else:
            return
    if refused is not None:
        raise SourceError(
            f"{source!r} can be listed, but its objects may not be read: {refused.message} "
            "The credentials need s3:GetObject on them."
        )


def _captions(options: IndexOptions, objects: Objects) -> "AbstractContextManager[Captions | None]":
    return nullcontext() if options.captions is None else Captions.load(options.captions, objects)
