"""The end of each history: a sync brings everything up to date, and another one has nothing to do."""

from datetime import timedelta

from tests.simulation.actions import Action, function_of
from tests.simulation.conduct import Violation, ended_well
from tests.simulation.models import MODELS
from tests.simulation.oracle import Oracle
from tests.simulation.scheduler import Task
from tests.simulation.world import INDEX, World


def sync_twice(world: World, oracle: Oracle) -> None:
    """Read every source as a whole, then update the index twice."""
    live = world.live()
    if live is None or not world.store.collections.require_live(INDEX).recorded.sources:
        return
    world.scheduler.time += timedelta(days=1)
    world.decoder_version = 2
    for prefix in sorted(world.bucket.denied):
        world.bucket.deny(prefix, False)
    world.model = next(model for model in MODELS if f"-{model}__" in live)
    for number, source in enumerate(sorted(oracle.limited)):
        _run(world, oracle, Action("index", {"sources": (source,)}), f"whole-{number}")
    sync = Action("reindex", {"model": world.model, "ratio": 1.0})
    _run(world, oracle, sync, "sync")
    oracle.check_synced()
    before = {uri: point.payload for uri, point in world.points(live).items()}
    listed = [[uri for uri in world.photos() if uri.startswith(f"{source}/")] for source in world.sources]
    tried = {min(uris) for uris in listed if uris}  # access to each source is tried first
    tried |= {uri for uri, stored in world.photos().items() if stored.content.startswith(b"nan")}
    if fetched := set(_run(world, oracle, sync, "again").seen.get("gets", ())) - tried:
        raise Violation(f"a second sync fetched unchanged objects: {sorted(fetched)}")
    if {uri: point.payload for uri, point in world.points(live).items()} != before:
        raise Violation("a second sync changed points")


def _run(world: World, oracle: Oracle, action: Action, name: str) -> Task:
    task = Task(name)
    oracle.before()
    world.scheduler.run([(task, function_of(action, world, task))], 0)
    oracle.after([(action, task)])
    if not ended_well(world, task):
        raise Violation(f"the final sync failed: {task.error or world.summary(name).get('problem')}")
    return task
