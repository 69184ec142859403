"""Which collection is live, which are kept for a rollback, and how long: every change of it, and nothing else."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from viewfinder.errors import ConfigurationError
from viewfinder.reindexing import hold
from viewfinder.reindexing.upgrade_lock import Lease
from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.reindex")

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def settled(store: Store, live: Collection) -> bool:
    """Whether the recorded states are those that the alias, which points at `live`, says."""
    return all(
        (each.metadata.state == "live") == (each.name == live.name) for each in store.collections.all(live.index)
    )


def settle(store: Store, index: str, *, clock: Clock = utc_now) -> None:
    """Let the recorded states follow the alias, which alone decides: a job may have been killed between the two."""
    live = store.collections.live(index)
    if live is None:
        return
    if live.metadata.state != "live":
        store.collections.update_metadata(live.name, state="live", retired_at="")
    for each in store.collections.all(index):
        if each.name != live.name and each.metadata.state == "live":
            store.collections.update_metadata(each.name, state="retired", retired_at=_stamp(clock))


def swap(store: Store, lease: Lease, to: Collection, *, clock: Clock = utc_now) -> None:
    """Make `to` the live collection and retire the one before. Raises `StoreBusyError` where the lease was lost."""
    lease.check()
    store.collections.update_metadata(to.name, promoted_at=_stamp(clock), retired_at="")
    store.collections.promote(to.index, to.name)
    settle(store, to.index, clock=clock)
    logger.info("Live is now %s", to.name)


def retired(store: Store, index: str) -> list[Collection]:
    """Former collections, the one that was live last first."""
    live = store.collections.live(index)
    former = [
        each
        for each in store.collections.all(index)
        if each.metadata.state == "retired" and (live is None or each.name != live.name)
    ]
    return sorted(former, key=lambda each: (each.metadata.retired_at, each.build), reverse=True)


def drop_old(store: Store, lease: Lease, index: str, *, keep: int, grace_s: float, clock: Clock = utc_now) -> list[str]:
    """Drop former collections but the last `keep`; those retired within `grace_s` seconds are left to a later call."""
    lease.check()
    dropped = []
    for each in retired(store, index)[keep:]:
        since = each.metadata.retired_at
        if since and datetime.fromisoformat(since) + timedelta(seconds=grace_s) > clock():
            logger.info("%s is dropped by a later run: somebody may still be turning its pages", each.name)
            continue
        store.collections.drop(each.name)
        dropped.append(each.name)
        logger.info("Dropped %s", each.name)
    return dropped


def roll_back(store: Store, lease: Lease, index: str, *, clock: Clock = utc_now) -> Collection:
    """Make the last former collection live again, and hold scheduled runs. Raises `ConfigurationError`."""
    live = store.collections.live(index)
    former = retired(store, index)
    if live is None or not former:
        raise ConfigurationError(
            f"Index {index!r} has no former collection to go back to. '--keep N' says how many a re-index keeps; "
            "'--status' shows what there is."
        )
    # The hold first: without it, a scheduled run right after a crash here would undo the rollback.
    hold.place(store.control(index), former[0].name, live.name)
    swap(store, lease, former[0], clock=clock)
    return former[0]


def staleness(former: Collection, live: Collection) -> str:
    """What `former` has missed while `live` was the live one, in words."""
    last = former.metadata.runs[-1] if former.metadata.runs else ""
    # Run ids begin with the time, so that their order is that of the runs.
    missed = len({run for run in live.metadata.runs if run > last})
    return (
        f"{former.name} was live until {former.metadata.retired_at or 'an unknown time'}; the last run that wrote to "
        f"it was {last or 'not recorded'}. Since then {missed} {'run has' if missed == 1 else 'runs have'} written to "
        f"{live.name}."
    )


def _stamp(clock: Clock) -> str:
    return clock().isoformat(timespec="seconds")
