"""Checks of runs: they end, they add up, they delete only what is gone, and one at a time changes collections."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

from tests.simulation.actions import ANCHORS, URIS, Action
from tests.simulation.models import MODELS
from tests.simulation.objects import PHOTOS
from tests.simulation.points import Point
from tests.simulation.scheduler import EndlessError, Killed, Task
from tests.simulation.world import INDEX, World, parse_captions, parse_records
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
        if action.kind != "remove source":
            _check_deleted(world, action, task)
            _check_lost(world, action, task)
        _check_archived(action, task)
        if len(pairs) == 1 and ended_well(world, task):
            _check_report(world, task)
        if ended_well(world, task) and world.database.shards.is_behind(task):
            raise Violation(f"{action.kind} is done, but its points appear later")
    _check_recorded(world, pairs)
    _check_lock([task for action, task in pairs if action.kind in CHANGES_MODEL])


def check_kept(
    world: World, action: Action, task: Task, before: Mapping[str, Point], after: Mapping[str, Point]
) -> None:
    """Check that the only run of a phase lost images and captions of unchanged objects only as far as it may."""
    photos, touched = world.photos(), world.bucket.touched
    same = {
        uri: point
        for uri, point in before.items()
        if uri in photos and photos[uri].number == point.number and touched.get(uri, -1) < task.began
    }
    lost = same.keys() - after.keys() - world.taken_down.keys()
    allowed = (action.options.get("allow_loss") or 0) if all(photos[uri].archived for uri in lost) else 0
    if len(lost) > allowed:
        raise Violation(f"{action.kind} lost {sorted(lost)}, whose objects have not changed; allowed is {allowed}")
    captioned = {uri for uri, point in before.items() if point.caption}
    uncaptioned = {uri for uri in captioned & same.keys() & after.keys() if not after[uri].caption}
    share = action.options["ratio"] if action.options.get("prune_captions") else 0
    if action.kind == "reindex":  # it prunes the collection that it has built, with first captions of objects
        captioned |= {uri for uri, point in after.items() if point.caption}
    count = len(captioned)
    if len(uncaptioned) > share * count:
        raise Violation(f"{action.kind} removed {len(uncaptioned)} of {count} captions; allowed is {share:g}")
    _check_retried(world, action, task, after)


def _check_retried(world: World, action: Action, task: Task, after: Mapping[str, Point]) -> None:
    """Check that a run which was to retry failures has read all objects that it listed and could not index."""
    if not action.options.get("retry_failed") or action.options.get("limit") or not ended_well(world, task):
        return
    missing = task.seen.get("listed", {}).keys() - after.keys() - set(task.seen.get("gets", ()))
    for uri in missing - world.taken_down.keys():
        stored, _ = task.seen["listed"][uri]
        if not stored.archived and world.bucket.touched.get(uri, -1) < task.began:
            raise Violation(f"{action.kind} was to retry failures, but did not read {uri}")


def check_done(
    action: Action,
    task: Task,
    before: Mapping[str, Point],
    points: Mapping[str, Point],
    gone: Set[str],
    captions: Mapping[str, Set[tuple[str, str]]],
) -> None:
    """Check the work of a run that was alone: captions of its file, and its prunes of captions and of points."""
    _check_captions_pruned(action, task, before, points)
    sources = {source.rstrip("/") for source in action.options.get("sources", ())}
    for uri, point in points.items():
        if action.options.get("prune") and uri in gone and point.sources & sources:
            raise Violation(f"{uri} is gone, but a prune of {sorted(sources)} has left its point")
        expected = dict(captions[uri]).get(action.options.get("captions") or "")
        read = uri in task.seen.get("listed", {}) and not action.options.get("limit")
        if expected and action.kind == "index" and read and point.caption != expected:
            raise Violation(f"{uri} does not have the caption {expected!r} that its run has read")


def check_points(world: World, points: Mapping[str, Point]) -> None:
    """Check each live point by itself."""
    for uri, point in points.items():
        if fault := point.fault(next(model for model in MODELS if f"-{model}__" in str(world.live()))):
            raise Violation(f"{uri} {fault}")
        if removed := point.sources - world.sources:
            raise Violation(f"{uri} still belongs to {sorted(removed)}, which was removed")


def check_due(
    points: Mapping[str, Point],
    due: Mapping[str, int],
    captions: Mapping[str, Set[tuple[str, str]]],
    late: Set[str],
) -> None:
    """Check that the points that are due are there, of the right content, and with a caption where there is one."""
    for uri in due.keys() - late:
        if uri not in points or points[uri].number != due[uri]:
            raise Violation(f"{uri} was indexed and has not changed, but is {'old' if uri in points else 'lost'}")
        if captions[uri] and not points[uri].caption:
            raise Violation(f"{uri} has lost its caption, which is still in {sorted(captions[uri])}")


def check_takedowns(world: World, collections: Sequence[str]) -> None:
    """Check that no collection has a point that was taken down."""
    for name in collections:
        if left := world.points(name).keys() & world.taken_down.keys():
            raise Violation(f"{sorted(left)} are taken down, but in {name}")


def written_after(
    pair: tuple[Action, Task], runs: Sequence[tuple[Action, Task]], before: Mapping[str, Point]
) -> dict[str, set[tuple[str, str]]]:
    """Return captions, file and text, that others have written since the listing of this index run, by URI."""
    written: dict[str, set[tuple[str, str]]] = defaultdict(set)
    task = pair[1]
    if pair[0].kind != "index":
        return written
    listed = max((step for _, step in task.seen.get("listed", {}).values()), default=task.began)
    for action, other in runs:
        file = action.options.get("captions")
        if other is task or action.kind != "index" or not file or other.error is not None:
            continue
        rows = parse_captions(other.seen["files"][file])
        for uri in rows.keys() & {uri for uri, (_, step) in other.seen.get("listed", {}).items() if step > listed}:
            if uri not in before or before[uri].caption != rows[uri]:
                written[uri].add((file, rows[uri]))
    return written


def ended_well(world: World, task: Task) -> bool:
    """Return True if a run says that it is done."""
    return task.error is None and world.summary(task.name).get("state") == "done"


def _check_captions_pruned(
    action: Action, task: Task, before: Mapping[str, Point], points: Mapping[str, Point]
) -> None:
    """Check that a prune of captions has removed all texts that its file does not have."""
    file = action.options.get("captions")
    if action.kind != "index" or not file or not action.options.get("prune_captions") or action.options.get("limit"):
        return
    records = parse_records(task.seen["files"][file])
    sources = {source.rstrip("/") for source in action.options["sources"]}
    for uri in before.keys() & points.keys() & task.seen.get("listed", {}).keys():
        record = records.get(uri)
        if not before[uri].sources & sources or not before[uri].caption or (record and record.caption):
            continue
        if points[uri].caption:
            raise Violation(f"{uri} still has a caption, which {file} does not have")
        if points[uri].payload.get("caption_hash") != (record.caption_hash if record else ""):
            raise Violation(f"{uri} does not have the hash of its record in {file}")


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


def _check_lost(world: World, action: Action, task: Task) -> None:
    """A run never deletes or replaces a point of what its object holds, even if the next run would write it again."""
    for each, number, step in task.seen.get("lost", ()):
        uri = IDS[each]
        stored = world.bucket.objects.get(uri)
        is_same = stored is not None and stored.number == number and world.bucket.touched.get(uri, -1) < step
        if is_same and uri not in world.taken_down:
            raise Violation(f"{action.kind} deleted or replaced the point of {uri}, which was that of its object")


def _check_archived(action: Action, task: Task) -> None:
    if action.kind == "reindex":  # reads again a few images of those that the collection has, archived or not
        return
    archived = task.seen.get("listed", {}).keys() - task.seen.get("readable", set())
    if fetched := archived & set(task.seen.get("gets", ())):
        raise Violation(f"{action.kind} fetched {sorted(fetched)}, which its listings showed as archived")


def _check_recorded(world: World, pairs: Sequence[tuple[Action, Task]]) -> None:
    """Check that no prune of captions forgets a file that another run has recorded since its listing.

    A run records its file after its listing, so the end of the listing of each run that prunes comes first.
    """
    runs = [(action, task) for action, task in pairs if action.kind == "index"]
    others = any(action.kind in (*CHANGES_MODEL, "remove source") for action, _ in pairs)
    if len(runs) < 2 or others or not world.live():
        return
    known = world.store.collections.require_live(INDEX).recorded.captions
    recorded = {(each.source.rstrip("/"), each.uri) for each in known}
    steps = {task.name: [step for _, step in task.seen.get("listed", {}).values()] for _, task in runs}
    pruning = [task.name for action, task in runs if action.options.get("prune_captions")]
    for action, task in runs:
        file = action.options.get("captions")
        last_end = max((max(steps[each], default=0) for each in pruning if each != task.name), default=0)
        if file and ended_well(world, task) and max(steps[task.name], default=0) > last_end:
            for source in action.options["sources"]:
                if (source.rstrip("/"), file) not in recorded:
                    raise Violation(f"{file} was read for {source}, but is not recorded")


def _check_lock(tasks: Sequence[Task]) -> None:
    spans = sorted((min(steps), max(steps)) for task in tasks if (steps := task.seen.get("structure")))
    if any(one[1] > other[0] for one, other in itertools.pairwise(spans)):
        raise Violation("two runs created, promoted or dropped collections at the same time")
