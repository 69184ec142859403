"""Rollback to the previous collection, and the pause of scheduled runs afterwards."""

import logging
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from viewfinder import clock
from viewfinder.errors import ConfigurationError, ModelMismatchError, UnknownModelError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.promote import correct_states, promote, retired_collections, wait_for_service
from viewfinder.reindexing.upgrade_lock import UpgradeLock
from viewfinder.settings import Settings
from viewfinder.store import Collection, Store
from viewfinder.store.control import Control

logger = logging.getLogger("viewfinder.reindex")

_PAUSE_KIND: Final = "rollback_pause"
_PAUSE_SUBJECT = "scheduled runs"


@dataclass(frozen=True)
class RollbackPause:
    """A pause of scheduled runs, because they would undo a rollback; `since` is ISO 8601 in UTC."""

    collection: str
    rolled_back_from: str
    since: str

    @classmethod
    def parse(cls, record: Any) -> "RollbackPause":
        return cls(**{each.name: record[each.name] for each in fields(cls)})

    def __str__(self) -> str:
        return f"since {self.since}, when {self.rolled_back_from!r} was rolled back to {self.collection!r}"


@dataclass(frozen=True)
class RollbackResult:
    """The collection that is live again, and how far it is behind the one it replaced.

    `last_run` is the last run that wrote to `collection`, "" if not recorded; `missed_runs` is the number of later runs
    that wrote to `rolled_back_from`. `retired_at` is when `collection` was retired, ISO 8601 in UTC.
    """

    collection: str
    model: str
    rolled_back_from: str
    retired_at: str
    last_run: str
    missed_runs: int


def roll_back(settings: Settings, store: Store) -> RollbackResult:
    """Make the last retired collection live again and pause scheduled runs.

    Raises `ConfigurationError` if there is none, `StoreBusyError` if another run holds the upgrade lock.
    """
    index = settings.index
    live = store.collections.require_live(index)
    control = store.control(index)
    with UpgradeLock(control, "rollback") as lock:
        correct_states(store, index)
        retired = retired_collections(store, index)
        if not retired:
            raise ConfigurationError(
                f"Index {index!r} has no retired collection to go back to. 'viewfinder status' lists its collections; "
                "'viewfinder reindex --keep N' sets how many retired ones are kept."
            )
        # Pause first: after a crash between the two steps, a scheduled run would undo the rollback.
        pause_runs(control, retired[0].name, live.name)
        promote(store, lock, retired[0])
    _warn_if_model_is_missing(retired[0])
    wait_for_service(settings.service_url, retired[0].name)
    return _rollback_result(retired[0], live)


def release(settings: Settings, store: Store) -> RollbackPause | None:
    """Resume scheduled runs; return the pause that ended, None if there was none."""
    control = store.control(settings.index)
    pause = read_pause(control)
    resume_runs(control)
    return pause


def read_pause(control: Control) -> RollbackPause | None:
    """Return the pause of an index, None if scheduled runs are not paused."""
    record = control.read(_PAUSE_KIND, [_PAUSE_SUBJECT]).get(_PAUSE_SUBJECT)
    return RollbackPause.parse(record) if record else None


def pause_runs(control: Control, collection: str, rolled_back_from: str) -> None:
    """Pause scheduled runs because of a rollback to `collection`."""
    pause = RollbackPause(collection, rolled_back_from, clock.timestamp())
    control.write(_PAUSE_KIND, {_PAUSE_SUBJECT: asdict(pause)})


def resume_runs(control: Control) -> None:
    """Resume scheduled runs."""
    control.remove(_PAUSE_KIND, [_PAUSE_SUBJECT])


def _rollback_result(collection: Collection, previous: Collection) -> RollbackResult:
    runs = [each.run_id for each in collection.recorded.runs]
    last_run = runs[-1] if runs else ""
    # Run ids begin with the time, so they sort in the order of the runs.
    missed = {each.run_id for each in previous.recorded.runs if each.run_id > last_run}
    return RollbackResult(
        collection=collection.name,
        model=collection.metadata.model_name,
        rolled_back_from=previous.name,
        retired_at=collection.metadata.retired_at,
        last_run=last_run,
        missed_runs=len(missed),
    )


def _warn_if_model_is_missing(collection: Collection) -> None:
    try:
        made_by = collection.metadata
        locate(made_by.model_name, expect=made_by.fingerprint, revisions=made_by.revisions)
    except (UnknownModelError, ModelMismatchError) as error:
        logger.warning(
            "This machine cannot load the model of %s; new replicas may fail too: %s", collection.name, error
        )
