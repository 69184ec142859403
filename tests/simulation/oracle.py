"""The expected content of an index, from the objects and from what successful runs have seen of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set

from tests.simulation import conduct
from tests.simulation.actions import Action
from tests.simulation.conduct import IDS, Violation, ended_well
from tests.simulation.objects import StoredObject
from tests.simulation.points import Point
from tests.simulation.scheduler import Task
from tests.simulation.world import World, parse_captions

Pairs = Sequence[tuple[Action, Task]]


class Oracle:
    """Knows what the live collection must hold, and checks it after each phase."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._due: dict[str, int] = {}  # these objects, by their numbers, must be found
        self._captions: dict[str, set[tuple[str, str]]] = defaultdict(set)  # their captions: file and text
        self._files: dict[str, set[str]] = defaultdict(set)  # captions files by source, also removed ones: texts stay
        self._indexed: set[str] = set()  # sources that a run has indexed to the end
        self.limited: set[str] = set()  # sources of which a run has read only some objects
        self._crashes: Counter[tuple[str, int]] = Counter()  # by digest and decoder
        self._cut_short = False  # a run ended early, and did not delete what was taken down meanwhile
        self._before: dict[str, Point] = {}  # the live points after the phase before
        self._gone: set[str] = set()
        self._late: set[str] = set()  # due after the next run: the last model change has switched, but not caught up

    def before(self) -> None:
        """Note what is missing before a phase."""
        self._gone = set(IDS.values()) - self._world.photos().keys()

    def after(self, pairs: Pairs) -> None:
        """Check what the actions of a phase have left."""
        conduct.check_runs(self._world, pairs)
        runs = [(action, task) for action, task in pairs if action.is_run]
        self._cut_short |= any(task.error is not None for _, task in runs)
        before = dict(self._due), {uri: set(rows) for uri, rows in self._captions.items()}
        for action, task in runs:  # first of all: a run may fail an object by the crash of another
            read = task.seen.get("gets", ()) if action.options.get("bad_node") else ()
            found = {self._world.photos().get(uri) for uri in read} - {None}
            self._crashes.update((stored.digest, task.seen["decoder"]) for stored in found)
        for action, task in runs:
            self._note(action, task)
        if any("switched" in task.seen and not ended_well(self._world, task) for _, task in runs):
            self._late |= {
                uri
                for uri, number in self._due.items()
                if number != before[0].get(uri) or self._captions[uri] - before[1].get(uri, set())
            }
        for pair in pairs:
            self._forget(pair[0], conduct.written_after(pair, runs, self._before))
        self._forget_what_changed()
        points = self._world.live_points()
        conduct.check_points(self._world, points)
        if self._world.live():
            conduct.check_due(points, self._due, self._captions, self._late)
        if len(runs) == 1 and not any(action.kind == "roll back" for action, _ in pairs):
            conduct.check_kept(self._world, *runs[0], self._before, points)
        if len(pairs) == 1 and runs and ended_well(self._world, runs[0][1]):
            conduct.check_done(*runs[0], self._before, points, self._gone, self._captions)
        conduct.check_takedowns(self._world, [] if self._cut_short else self._world.collections())
        self._before = points

    def check_synced(self) -> None:
        """Check that the live collection holds exactly what can be indexed."""
        world, points = self._world, self._world.live_points()
        for uri, stored in world.photos().items():
            point, holders = points.get(uri), self._above(uri, self._indexed)
            if not holders or uri in world.taken_down:
                continue
            if self._indexable(stored) and (point is None or point.number != stored.number):
                raise Violation(f"{uri} is {'old' if point else 'missing'} after a sync")
            files = set().union(*(self._files[source] for source in self._above(uri, self._files)))
            texts = {world.captions(file).get(uri) for file in files}
            if point and self._captions[uri] and point.caption not in texts - {None}:
                raise Violation(f"{uri} has the caption {point.caption!r}, not one of {texts}")
            if point and point.number == stored.number and not holders <= point.sources:
                raise Violation(f"{uri} does not have the sources {sorted(holders)}: {sorted(point.sources)}")
        if unwanted := points.keys() - world.photos().keys():
            raise Violation(f"{sorted(unwanted)} are gone, but still in the index after a sync")

    def _note(self, action: Action, task: Task) -> None:
        """Note what a run has seen."""
        options = action.options
        sources = {source.rstrip("/") for source in options.get("sources", ())}
        for source in sources:
            self._files[source] |= {options.get("captions")} - {None}
        self.limited |= sources if options.get("limit") else set()
        if ended_well(self._world, task):
            self._cut_short = False
            self._late = set() if action.kind == "reindex" else self._late
            if not options.get("limit"):
                self.limited -= sources
                self._indexed |= sources
                self._expect(action, task)

    def _expect(self, action: Action, task: Task) -> None:
        """Note what a run that ended well must have indexed."""
        options, touched = action.options, self._world.bucket.touched
        file = options.get("captions") or ""
        rows = parse_captions(task.seen["files"][file]) if file else {}
        sources = {source.rstrip("/") for source in options.get("sources", self._world.sources)}
        nested = any(f"{one}/".startswith(f"{other}/") for one in sources for other in sources - {one})
        for uri, (stored, step) in task.seen.get("listed", {}).items():
            # An object in two sources of a run is taken from the listing of the first one.
            same = touched.get(uri, -1) < (task.began if nested else step)
            # Two crashes in two runs count as a fault of the image.
            blamed = self._crashes[stored.digest, task.seen["decoder"]] > 1 and not options.get("retry_failed")
            same = same and not self._world.bucket.is_denied(uri)
            if same and self._indexable(stored, task.seen["decoder"], crashing=options.get("bad_node") or blamed):
                self._due[uri] = stored.number
                self._late.discard(uri)
                self._captions[uri] |= {(file, rows[uri])} if uri in rows else set()

    def _indexable(self, stored: StoredObject, decoder: int = 2, *, crashing: bool | None = None) -> bool:
        kind = stored.content.split()[0]
        crashing = self._crashes[stored.digest, decoder] > 1 if crashing is None else crashing
        readable = kind == b"good" or (kind == b"heic" and decoder == 2)
        return readable and not stored.archived and not (crashing and kind == b"good" and stored.number % 2)

    def _forget(self, action: Action, later: Mapping[str, Set[tuple[str, str]]]) -> None:
        """Remove expectations that an action has ended; captions that are `later` than its listing stay."""
        if action.kind == "roll back":  # the collection is as it was when it was retired
            self._due, self._captions, self._indexed = {}, defaultdict(set), set()
        if action.kind == "remove source":
            gone = {action.options["source"]}
            self._indexed, self.limited = self._indexed - gone, self.limited - gone
            others = {uri for uri, point in self._before.items() if point.sources - gone}
            self._due = {uri: number for uri, number in self._due.items() if uri in others}
        if action.options.get("prune_captions"):  # only those of its own file stay
            for uri, rows in self._captions.items():
                own = {row for row in rows if row[0] == action.options.get("captions")}
                self._captions[uri] = own | (rows & later.get(uri, set()))

    def _forget_what_changed(self) -> None:
        photos = {uri: each for uri, each in self._world.photos().items() if uri not in self._world.taken_down}
        for uri, number in list(self._due.items()):
            if (stored := photos.get(uri)) is None or stored.number != number or stored.archived:
                del self._due[uri]
        for uri, rows in list(self._captions.items()):
            same = {(file, text) for file, text in rows if self._world.captions(file).get(uri) == text}
            self._captions[uri] = same if uri in self._due else set()

    def _above(self, uri: str, sources: Iterable[str]) -> set[str]:
        return {source for source in sources if uri.startswith(f"{source}/")}
