"""What a person does with an index by hand: look at it, roll it back, let scheduled runs go on."""

import logging

from viewfinder.cli.output import stdout
from viewfinder.errors import ConfigurationError, ModelMismatchError, UnknownModelError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing import announcement, hold, promotion, status
from viewfinder.reindexing.upgrade_lock import Lease
from viewfinder.settings import Settings
from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.reindex")


def show(store: Store, settings: Settings) -> int:
    """Print the collections of the index, the hold and the lease."""
    found = status.read(store, settings.index)
    _print(status.table(found), *status.notes(found))
    return 0


def release(store: Store, settings: Settings) -> int:
    """Lift the hold that a rollback has left."""
    control = store.control(settings.index)
    held = hold.standing(control)
    hold.lift(control)
    _print(f"Lifted the hold {held}." if held else f"Index {settings.index!r} was not held.")
    return 0


def roll_back(store: Store, settings: Settings) -> int:
    """Switch back to the collection before, whatever state it is in, and hold scheduled runs."""
    live = live_of(store, settings.index)
    with Lease(store.control(settings.index), "rollback") as lease:
        promotion.settle(store, settings.index)
        former = promotion.roll_back(store, lease, settings.index)
    _print(
        f"Live is now {former.name} (model {former.metadata.model_name}).",
        promotion.staleness(former, live),
        "jobs/index.py brings it up to date. Scheduled runs of jobs/reindex.py stop until --release or --model.",
    )
    _warn_where_unloadable(former)
    announcement.tell(settings.server, former.name)
    return 0


def has_model(store: Store, settings: Settings, model: str | None) -> bool:
    """Whether the index has the wanted model already; said, and found out without Ray, as a scheduler asks often."""
    live = live_of(store, settings.index)
    wanted = locate(model or settings.model)
    same = wanted.fingerprint == live.metadata.fingerprint
    if same:
        logger.info("%s has model %s (%s) already; nothing to do", live.name, wanted.name, wanted.fingerprint)
    return same


def live_of(store: Store, index: str) -> Collection:
    """The live collection; raises `ConfigurationError` where there is none yet."""
    live = store.collections.live(index)
    if live is None:
        raise ConfigurationError(
            f"There is no index {index!r} in {store.address} yet. Make it with "
            "'python jobs/index.py --source s3://bucket/prefix'."
        )
    return live


def _warn_where_unloadable(former: Collection) -> None:
    try:
        locate(former.metadata.model_name, expect=former.metadata.fingerprint)
    except (UnknownModelError, ModelMismatchError) as error:
        logger.warning("Replicas that start now may not find its model, as this machine does not: %s", error)


def _print(*lines: object) -> None:
    console = stdout()
    for line in lines:
        console.print(line)
