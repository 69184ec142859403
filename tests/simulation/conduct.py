"""How runs must behave: they end, they add up, they delete only what is gone, and one at a time changes collections."""

import itertools
from collections.abc import Sequence

from tests.simulation.actions import ANCHORS, URIS, Action
from tests.simulation.objects import PHOTOS
from tests.simulation.scheduler import EndlessError, Killed, Task
from tests.simulation.world import World
from viewfinder.errors import CollectionMissingError, ConfigurationError, ModelMismatchError, StoreBusyError
from viewfinder.indexing.prune import PruneRefusedError
from viewfinder.sources.uris import point_id

IDS = {point_id(uri): uri for uri in (*URIS, *ANCHORS)}
CHANGES_MODEL = ("reindex", "roll back")
_REFUSALS: tuple[type[BaseException], ...] = (Killed, PruneRefusedError, ConfigurationError)
_CONFLICTS = (StoreBusyError, ModelMismatchError, CollectionMissingError)


class Violation(AssertionError):
    """An invariant does not hold."""


def check_runs(world: World, pairs: Sequence[tuple[Action, Task]]) -> None:
    """Check the actions of a phase, which ran at once."""
    for action, task in pairs:
        others = [each for each, other in pairs if other is not task and each.kind in CHANGES_MODEL]
        _check_end(action, task, _REFUSALS + (_CONFLICTS if others else ()))
        _check_deleted(world, action, task)
        _check_archived(action, task)
        if len(pairs) == 1 and ended_well(world, task):
            _check_report(world, task)
    _check_lock([task for action, task in pairs if action.kind in CHANGES_MODEL])


def ended_well(world: World, task: Task) -> bool:
    """Return True if a run says that it is done."""
    return task.error is None and world.summary(task.name).get("state") == "done"


def _check_end(action: Action, task: Task, allowed: tuple[type[BaseException], ...]) -> None:
    error = task.error
    if isinstance(error, EndlessError):
        raise Violation(f"{action.kind} does not end")
    if "repeated_token" in action.faults.values() and "token" in str(error):
        return
    if error is not None and not isinstance(error, allowed):
        raise Violation(f"{action.kind} ended with {error!r}") from error


def _check_report(world: World, task: Task) -> None:
    counts = world.summary(task.name).get("counts")
    if counts:
        accounted = counts["unchanged"] + counts["indexed"] + counts["failed"] + counts.get("skipped", 0)
        if counts["listed"] != accounted:
            raise Violation(f"the report does not add up: {counts}")


def _check_deleted(world: World, action: Action, task: Task) -> None:
    """A run deletes at most the given share of the live points because their objects are gone."""
    may_prune = action.kind == "reindex" or action.options.get("prune")
    ratio = action.options.get("ratio", 0.2) if may_prune else 0.0
    nested = len(world.sources) > 1 and PHOTOS.rstrip("/") in world.sources
    bound = ratio * (2 if nested else 1)  # each source has its own bound, and a point may be in two
    for count, ids in task.seen.get("deleted", {}).values():
        gone = {IDS[each] for each in ids} - world.bucket.objects.keys() - world.taken_down.keys()
        listed = task.seen.get("listed", {})
        gone -= {uri for uri in gone & listed.keys() if not listed[uri][0].content.startswith(b"good")}
        if len(gone) > bound * count:
            raise Violation(f"{action.kind} deleted {len(gone)} of {count} live points; allowed is {bound:g}")


def _check_archived(action: Action, task: Task) -> None:
    if action.kind == "reindex":  # reads again a few images of those that the collection has, archived or not
        return
    for uri in task.seen.get("gets", ()):
        if uri in task.seen.get("listed", {}) and task.seen["listed"][uri][0].archived:
            raise Violation(f"{action.kind} fetched {uri}, which its listing showed as archived")


def _check_lock(tasks: Sequence[Task]) -> None:
    spans = sorted((min(steps), max(steps)) for task in tasks if (steps := task.seen.get("structure")))
    if any(one[1] > other[0] for one, other in itertools.pairwise(spans)):
        raise Violation("two runs created, promoted or dropped collections at the same time")
