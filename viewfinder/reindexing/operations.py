"""What a person does with an index by hand: look at it, roll it back, let scheduled runs go on."""

import logging

from viewfinder.cli.entry import stdout
from viewfinder.errors import ModelMismatchError, UnknownModelError
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
    live = store.collections.require_live(settings.index)
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
    live = store.collections.require_live(settings.index)
    wanted = locate(model or settings.model)
    same = wanted.fingerprint == live.metadata.fingerprint
    if same:
        logger.info("%s has model %s (%s) already; nothing to do", live.name, wanted.name, wanted.fingerprint)
    return same


def _warn_where_unloadable(former: Collection) -> None:
    try:
        locate(former.metadata.model_name, expect=former.metadata.fingerprint)
    except (UnknownModelError, ModelMismatchError) as error:
        logger.warning("Replicas that start now may not find its model, as this machine does not: %s", error)


def _print(*lines: object) -> None:
    console = stdout()
    for line in lines:
        console.print(line)
