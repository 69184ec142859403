"""The expected content of an index, from the objects and from what successful runs have seen of them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from tests.simulation.actions import Action, function_of
from tests.simulation.conduct import IDS, Violation, check_runs, ended_well
from tests.simulation.models import MODELS, image_vector, text_vector
from tests.simulation.objects import StoredObject
from tests.simulation.scheduler import Task
from tests.simulation.world import World, parse_captions

Pairs = Sequence[tuple[Action, Task]]


class Oracle:
    """Checks the invariants of a world after each phase, and after a final sync."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._due: dict[str, str] = {}  # ETags by URI: these objects must be found
        self._captions: dict[str, set[tuple[str, str]]] = defaultdict(set)  # their captions: file and text
        self._files: dict[str, set[str]] = defaultdict(set)  # captions files by source, of all runs
        self._indexed: set[str] = set()  # sources that a run has indexed to the end
        self._limited: set[str] = set()
        self._gone: set[str] = set()
        self._crashes: Counter[tuple[str, int]] = Counter()  # by ETag and decoder
        self._cut_short = False  # a run ended early, and did not delete what was taken down meanwhile

    def before(self) -> None:
        """Note what is there before a phase."""
        self._gone = set(IDS.values()) - self._world.photos().keys()

    def after(self, pairs: Pairs) -> None:
        """Check what the actions of a phase have left."""
        check_runs(self._world, pairs)
        runs = [(action, task) for action, task in pairs if action.is_run]
        self._cut_short |= any(task.error is not None for _, task in runs)
        for action, task in runs:
            if action.options.get("bad_node"):
                read = {self._world.photos().get(uri) for uri in task.seen.get("gets", ())} - {None}
                self._crashes.update((stored.etag, task.seen["decoder"]) for stored in read)
            for source in action.options.get("sources", ()):
                self._files[source.rstrip("/")] |= {action.options.get("captions")} - {None}
                self._limited |= {source} if action.options.get("limit") else set()
            if ended_well(self._world, task):
                self._cut_short = False
                self._expect(action, task)
        if any(action.kind == "roll back" for action, _ in pairs):  # the collection is as it was when it was retired
            self._due, self._captions, self._indexed = {}, defaultdict(set), set()
        self._forget_what_changed()
        if (live := self._world.live()) is not None:
            self._check_points(live)
            if len(pairs) == 1 and runs and ended_well(self._world, runs[0][1]):
                self._check_done(live, *runs[0])
        self._check_takedowns()

    def finish(self) -> None:
        """Check that a final sync brings everything up to date, and that another one has nothing to do."""
        world = self._world
        if (live := world.live()) is None:
            return
        world.scheduler.time += timedelta(days=1)
        world.decoder_version = 2
        world.model = next(model for model in MODELS if f"-{model}__" in live)
        for number, source in enumerate(sorted(self._limited)):
            self._run(Action("index", {"sources": (source,)}), f"whole-{number}")
        sync = Action("reindex", {"model": world.model, "ratio": 1.0})
        self._run(sync, "sync")
        before = {uri: point.payload for uri, point in self._check_synced(live).items()}
        listed = [[uri for uri in world.photos() if uri.startswith(f"{source}/")] for source in world.sources]
        tried = {min(uris) for uris in listed if uris}
        tried |= {uri for uri, stored in world.photos().items() if stored.content.startswith(b"nan")}
        fetched = set(self._run(sync, "again").seen.get("gets", ())) - tried  # access to each source is tried first
        if fetched:
            raise Violation(f"a second sync fetched unchanged objects: {sorted(fetched)}")
        if {uri: point.payload for uri, point in world.points(live).items()} != before:
            raise Violation("a second sync changed points")

    def _run(self, action: Action, name: str) -> Task:
        task = Task(name)
        self.before()
        self._world.scheduler.run([(task, function_of(action, self._world, task))], 0)
        self.after([(action, task)])
        if not ended_well(self._world, task):
            raise Violation(f"the final sync failed: {task.error or self._world.summary(name).get('problem')}")
        return task

    def _expect(self, action: Action, task: Task) -> None:
        """Note what a run that ended well has seen."""
        options, touched = action.options, self._world.bucket.touched
        if options.get("limit"):
            return
        self._limited -= set(options.get("sources", ()))
        self._indexed |= {source.rstrip("/") for source in options.get("sources", ())}
        file = options.get("captions") or ""
        rows = parse_captions(task.seen["files"][file]) if file else {}
        sources = {source.rstrip("/") for source in options.get("sources", self._world.sources)}
        nested = any(f"{one}/".startswith(f"{other}/") for one in sources for other in sources - {one})
        for uri, (stored, step) in task.seen.get("listed", {}).items():
            # An object in two sources of a run is taken from the listing of the first one.
            same = touched.get(uri, -1) < (task.began if nested else step)
            if same and self._indexable(stored, task.seen["decoder"], bad_node=options.get("bad_node")):
                self._due[uri] = stored.etag
                self._captions[uri] |= {(file, rows[uri])} if uri in rows else set()

    def _indexable(self, stored: StoredObject, decoder: int = 2, *, bad_node: bool | None = False) -> bool:
        kind, number = stored.content.decode().split()[:2]
        readable = kind == "good" or (kind == "heic" and decoder == 2)
        # Two crashes in two runs count as a fault of the image.
        crashes = (bad_node or self._crashes[stored.etag, decoder] > 1) and kind == "good" and int(number) % 2
        return readable and not stored.archived and not crashes

    def _forget_what_changed(self) -> None:
        photos, taken_down = self._world.photos(), self._world.taken_down
        for uri, etag in list(self._due.items()):
            stored = photos.get(uri)
            if stored is None or stored.etag != etag or stored.archived or uri in taken_down:
                del self._due[uri]
        for uri, rows in list(self._captions.items()):
            same = {(file, text) for file, text in rows if self._world.captions(file).get(uri) == text}
            self._captions[uri] = same if uri in self._due else set()

    def _check_points(self, live: str) -> None:
        points = self._world.points(live)
        model = next(model for model in MODELS if f"-{model}__" in live)
        for uri, etag in self._due.items():
            if uri not in points or points[uri].payload["etag"] != etag:
                raise Violation(f"{uri} was indexed and has not changed, but is {'old' if uri in points else 'lost'}")
            if self._captions[uri] and not points[uri].payload.get("caption"):
                raise Violation(f"{uri} has lost its caption, which is still in {sorted(self._captions[uri])}")
        for uri, point in points.items():
            content = self._world.contents[point.payload["etag"]]
            if not np.allclose(point.vector["image"], image_vector(model, content), atol=1e-5):
                raise Violation(f"{uri} has a vector that is not that of its ETag")
            caption = point.payload.get("caption")
            if bool(caption) != ("caption" in point.vector) or bool(caption) != point.payload["has_caption"]:
                raise Violation(f"{uri} has the caption {caption!r}, but its vector says otherwise")
            if caption and not np.allclose(point.vector["caption"], text_vector(model, caption), atol=1e-5):
                raise Violation(f"{uri} has a vector that is not that of its caption {caption!r}")

    def _check_done(self, live: str, action: Action, task: Task) -> None:
        """Check the work of a run that was alone: captions of its file, its sources, and its prune."""
        sources = {source.rstrip("/") for source in action.options.get("sources", ())}
        for uri, point in self._world.points(live).items():
            recorded = {source.rstrip("/") for source in point.payload["sources"]}
            if action.options.get("prune") and uri in self._gone and recorded & sources:
                raise Violation(f"{uri} is gone, but a prune of {sorted(sources)} has left its point")
            expected = dict(self._captions[uri]).get(action.options.get("captions") or "")
            if expected and action.kind == "index" and point.payload.get("caption") != expected:
                raise Violation(f"{uri} does not have the caption {expected!r} that its run has read")

    def _check_takedowns(self) -> None:
        for name in () if self._cut_short else self._world.collections():
            if left := self._world.points(name).keys() & self._world.taken_down.keys():
                raise Violation(f"{sorted(left)} are taken down, but in {name}")

    def _check_synced(self, live: str) -> dict[str, Any]:
        """Check that the live collection holds exactly what can be indexed; return its points."""
        world, points = self._world, self._world.points(live)
        for uri, stored in world.photos().items():
            holders = {source for source in self._indexed if uri.startswith(f"{source}/")}
            wanted = holders and uri not in world.taken_down
            if (
                wanted
                and self._indexable(stored)
                and getattr(points.get(uri), "payload", {}).get("etag") != stored.etag
            ):
                raise Violation(f"{uri} is {'old' if uri in points else 'missing'} after a sync")
            texts = {world.captions(file).get(uri) for source in holders for file in self._files[source]} - {None}
            if wanted and uri in points and self._captions[uri] and points[uri].payload.get("caption") not in texts:
                raise Violation(f"{uri} has the caption {points[uri].payload.get('caption')!r}, not one of {texts}")
            current = uri in points and points[uri].payload["etag"] == stored.etag
            if current and not holders <= {source.rstrip("/") for source in points[uri].payload["sources"]}:
                raise Violation(f"{uri} does not have the sources {sorted(holders)}: {points[uri].payload['sources']}")
        if unwanted := points.keys() - world.photos().keys():
            raise Violation(f"{sorted(unwanted)} are gone, but still in the index after a sync")
        return points
