"""The actions of a history: phases of actions that run at once. A history is drawn from its seed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation import objects, stores
from tests.simulation.models import MODELS, model_directory
from tests.simulation.scheduler import Task
from tests.simulation.world import World
from viewfinder.indexing.options import IndexOptions
from viewfinder.reindexing.options import ReindexOptions

# Each is a kind of event that one fault of the past needs; a feature in `history.KNOWN` is not drawn.
FEATURES = frozenset(
    {
        "several captions files",
        "captions of nothing",
        "blank captions",
        "two index runs",
        "two reindexes",
        "decoder upgrades",
        "bad nodes",
        "vanishing sources",
        "two spellings",
        "vectors that are not finite",
        "timeouts and failed replicas",
        "repeated tokens",
        "archived objects",
        "odd ETags",
        "denied access",
        "removed sources",
        "retries",
        "pruned captions",
        "clocks",
        "kills",
        "limits",
        "rollbacks",
        "two writers of one point",
        "many writers of one point",
        "model changes cut short",
        "takedowns beside inserts",
        "captions beside their prune",
    }
)
ENDINGS = frozenset(
    {
        "two writers of one point",
        "many writers of one point",
        "model changes cut short",
        "takedowns beside inserts",
        "captions beside their prune",
    }
)  # the last phases of some histories
SCENARIOS = frozenset({"two index runs", "two reindexes", "vanishing sources"})
FOLDERS = ("cats", "dogs")
URIS = tuple(f"{objects.PHOTOS}{folder}/{name}.jpg" for folder in FOLDERS for name in "abcde")
ANCHORS = tuple(f"{objects.PHOTOS}{folder}/0.jpg" for folder in FOLDERS)  # never change, so no source is empty
PLACES = (*(f"{objects.PHOTOS}{folder}" for folder in FOLDERS), objects.PHOTOS.rstrip("/"))
FILES = tuple(f"s3://captions/{month}.csv" for month in ("january", "february"))
_SPECIAL_FAULTS = {
    "repeated_token": "repeated tokens",
    **dict.fromkeys(("timeout_408", "consensus_500", "replica_500"), "timeouts and failed replicas"),
}
_CHANGES = {
    "archived objects": ("archive", "unarchive"),
    "decoder upgrades": ("upgrade decoder",),
    "denied access": ("deny", "allow"),
    "odd ETags": ("endpoint",),
    "removed sources": ("remove source",),
    "vanishing sources": ("vanish",),
}
_WORDS = ("red", "old", "big", "wet", "new")


@dataclass(frozen=True)
class Action:
    """One action of a phase; `options` are those of its kind. For the others see `Task`."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    delay: int = 0
    skew_s: float = 0.0
    kill_at: int | None = None
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        return self.kind in ("index", "reindex")

    def __str__(self) -> str:
        details = {name: value for name, value in self.options.items() if value not in (None, False, ())}
        parts = [f"{name}={value!r}" for name, value in details.items()]
        for name, value in (("after", self.delay), ("clock", self.skew_s), ("kill_at", self.kill_at)):
            parts += [f"{name}={value}"] if value else []
        parts += [f"faults={self.faults}"] if self.faults else []
        return f"{self.kind}({', '.join(parts)})"


@dataclass(frozen=True)
class Phase:
    """Actions that run at once, interleaved as `seed` says, `hours` after the phase before."""

    actions: tuple[Action, ...]
    seed: int
    hours: int


def function_of(action: Action, world: World, task: Task) -> Callable[[], Any]:
    """Return the function that carries out an action."""
    options, bucket = action.options, world.bucket

    def change() -> None:
        world.scheduler.step()
        match action.kind:
            case "put":
                bucket.put(options["uri"], options["content"])
            case "delete":
                bucket.delete(options["uri"])
            case "archive" | "unarchive":
                bucket.archive(options["uri"], action.kind == "archive")
            case "deny" | "allow":
                bucket.deny(options["prefix"], action.kind == "deny")
            case "endpoint":
                bucket.etags = options["etags"]
            case "vanish":
                for uri in [uri for uri in URIS if f"/{options['folder']}/" in uri]:
                    bucket.delete(uri)
            case "captions":
                world.write_captions(options["file"], options["rows"])
            case "upgrade decoder":
                world.decoder_version = 2

    programs: dict[str, Callable[[], Any]] = {
        "index": lambda: world.index(task, index_options(options), bad_node=options.get("bad_node", False)),
        "reindex": lambda: world.reindex(task, reindex_options(options)),
        "remove source": lambda: world.remove_source(options["source"]),
        "take down": lambda: world.take_down(options["uri"]),
        "restore": lambda: world.restore(options["uri"]),
        "roll back": world.roll_back,
        "release": world.release,
    }
    return programs.get(action.kind, change)


def index_options(options: dict[str, Any]) -> IndexOptions:
    return IndexOptions(
        sources=options["sources"],
        captions=(options["captions"],) if options.get("captions") else (),
        prune=options.get("prune", False),
        prune_max_ratio=options.get("ratio", 0.2),
        prune_captions=options.get("prune_captions", False),
        prune_captions_max_ratio=options.get("ratio", 0.2),
        retry_failed=options.get("retry_failed", False),
        max_objects=options.get("limit"),
        max_failure_ratio=1.0,
    )


def reindex_options(options: dict[str, Any]) -> ReindexOptions:
    model = options.get("model")
    return ReindexOptions(
        model=model and model_directory(model),
        prune_max_ratio=options.get("ratio", 0.2),
        prune_captions=options.get("prune_captions", False),
        prune_captions_max_ratio=options.get("ratio", 0.2),
        retry_failed=options.get("retry_failed", False),
        allow_loss=options.get("allow_loss", 0),
        max_failure_ratio=1.0,
    )


class Draw:
    """Draws the phases of a history."""

    def __init__(self, seed: int, features: frozenset[str], *, often: float = 0.2) -> None:
        self._seed = seed
        self._random = Random(seed)
        self._often = often  # the share of phases with a scenario
        self._features = features
        self._number = 10

    def history(self) -> list[Phase]:
        """Return the phases: first a bucket and an index, then what happens to them."""
        chosen = self._random
        first = [Action("put", {"uri": uri, "content": self._content("good")}) for uri in ANCHORS]
        first += [self._put(uri) for uri in chosen.sample(URIS, chosen.randint(3, 7))]
        first += [self._captions(file) for file in self._files()]
        first += [self._endpoint()] if "odd ETags" in self._features else []
        phases = [Phase(tuple(first), 0, 0), self._phase([self._index()])]
        for _ in range(chosen.randint(2, 5)):
            phases.append(self._phase(self._changes()))
            phases.append(self._phase(self._runs()))
        # Drawn apart: the phases before are those of a history without an ending.
        self._random = Random(f"the end of {self._seed}")
        if self._features & ENDINGS and self._random.random() < self._often:
            endings = {
                "two writers of one point": self._two_writers,
                "many writers of one point": self._many_writers,
                "model changes cut short": self._cut_short,
                "takedowns beside inserts": self._taken_down_meanwhile,
                "captions beside their prune": self._described_meanwhile,
            }
            phases += map(self._phase, endings[self._random.choice(sorted(self._features & ENDINGS))]())
        return phases

    def _phase(self, actions: list[Action]) -> Phase:
        return Phase(tuple(actions), self._random.getrandbits(32), self._random.choice([1, 24, 24 * 7]))

    def _changes(self) -> list[Action]:
        changes = [self._change() for _ in range(self._random.randint(1, 3))]
        # At the same time as others, the end of a takedown has no defined result.
        alone = ("restore", "remove source")
        return [each for each in changes if each.kind not in alone or len(changes) == 1]

    def _change(self) -> Action:
        chosen, uri = self._random, self._random.choice(URIS)
        kinds: dict[str, float] = {"put": 6, "delete": 4, "captions": 3, "take down": 1, "restore": 1}
        for each in sorted(self._features & _CHANGES.keys()):
            kinds |= dict.fromkeys(_CHANGES[each], 5 * self._often)
        kind = chosen.choices(list(kinds), list(kinds.values()))[0]
        match kind:
            case "endpoint":
                return self._endpoint()
            case "deny" | "allow":
                return Action(kind, {"prefix": chosen.choice([uri, *PLACES[:2]])})
            case "remove source":
                return Action(kind, {"source": chosen.choice(PLACES)})
            case "put":
                return self._put(uri)
            case "captions":
                return self._captions(chosen.choice(self._files()))
            case "vanish":
                return Action(kind, {"folder": chosen.choice(FOLDERS)})
            case "upgrade decoder":
                return Action(kind)
        return Action(kind, {"uri": uri})

    def _runs(self) -> list[Action]:
        """Return one run, or two at once, and perhaps changes meanwhile."""
        chosen = self._random
        if self._features & SCENARIOS and chosen.random() < self._often:
            return self._scenario(chosen.choice(sorted(self._features & SCENARIOS)))
        runs = [self._run()]
        if chosen.random() < 0.3:
            second = self._run()
            pair = (runs[0].kind, second.kind)
            allowed = {("index", "index"): "two index runs", ("reindex", "reindex"): "two reindexes"}
            if pair not in allowed or allowed[pair] in self._features:
                runs.append(self._with(second, delay=chosen.choice([0, 0, 10, 40])))
        if chosen.random() < 0.4:
            changes = [each for each in self._changes() if each.kind != "remove source"]
            runs += [self._with(each, delay=chosen.randint(1, 120)) for each in changes[:2]]
        return runs

    def _scenario(self, feature: str) -> list[Action]:
        """Return actions at once that seldom meet by chance."""
        chosen = self._random
        if feature == "two index runs":
            first = self._index()
            first = self._with(first, options=first.options | {"limit": None}, delay=chosen.choice([0, 10, 20, 30]))
            sources = chosen.choice([first.options, self._index().options])["sources"]
            captions = chosen.choice([first.options["captions"], None])
            others = {"sources": sources, "captions": captions, "prune": True, "ratio": 1.0}
            others |= {} if captions else {"prune_captions": False}
            second = self._with(first, options=first.options | others, delay=0, kill_at=None, faults={})
            second = self._with(second, skew_s=-first.skew_s)
            # Some objects that both list, and perhaps one that only the first one lists.
            puts = [self._with(self._put(uri), delay=chosen.randint(1, 10)) for uri in chosen.sample(URIS, 2)]
            return [first, second, *puts, self._with(self._put(chosen.choice(URIS)), delay=chosen.randint(15, 50))]
        change = self._hurt(Action("reindex", {"model": chosen.choice(MODELS), "ratio": 0.2}))
        if feature == "two reindexes":
            return [change, self._with(change, skew_s=-change.skew_s)]
        vanish = Action("vanish", {"folder": chosen.choice(FOLDERS)})
        return [change, self._with(vanish, delay=chosen.randint(20, 160))]

    def _two_writers(self) -> list[list[Action]]:
        """Return phases: at the end two runs write points that exist, each from another content of the object."""
        chosen, uris = self._random, self._random.sample(URIS, 4)
        options = {"sources": PLACES[2:], "captions": None, "prune": False, "ratio": 0.2}
        first, second = (Action("index", options, delay=chosen.randint(0, 20)) for _ in range(2))
        if chosen.random() < 0.5:
            second = self._with(second, options=options | {"sources": (chosen.choice(PLACES),)})
        puts = [[self._put_good(uri) for uri in uris] for _ in range(3)]
        puts[1] = [self._put(uri) if chosen.random() < 0.5 else each for uri, each in zip(uris, puts[1], strict=True)]
        puts[2] = [self._with(each, delay=chosen.randint(5, 45)) for each in puts[2]]
        return [puts[0], [Action("index", options)], puts[1], [first, second, *puts[2]]]

    def _many_writers(self) -> list[list[Action]]:
        """Return phases: at the end several runs write the same points, from several contents of the objects.

        The points are new to all, or exist, or exist and their objects are broken when the first run lists them.
        """
        chosen, uris = self._random, self._random.sample(URIS, 4)
        case = chosen.choice(["new", "changed", "broken"])
        options = {"sources": PLACES[2:], "captions": None, "prune": False, "ratio": 1.0}
        runs = [Action("index", options, delay=chosen.randint(0, 20)) for _ in range(4)]
        before, between, later = (
            [Action("put", {"uri": uri, "content": self._content(kind)}) for uri in uris]
            for kind in ("good", "bad" if case == "broken" else "good", "good")
        )
        if case == "new":
            before = [Action("delete", {"uri": uri}) for uri in uris]
        later = [self._with(each, delay=chosen.randint(5, 45)) for each in later]
        first = Action("index", options | {"prune": case == "new"})
        return [before, [first], between, [*runs, *later]]

    def _cut_short(self) -> list[list[Action]]:
        """Return phases: at the end a source is indexed while a model change that does not end well changes models."""
        chosen, source = self._random, self._random.choice(PLACES[:2])
        step = chosen.randint(40, 300)
        cut = {"kill_at": step} if chosen.random() < 0.5 else {"faults": {step: "repeated_token"}}
        change = self._with(Action("reindex", {"model": chosen.choice(MODELS), "ratio": 0.2}), **cut)
        captions = chosen.choice([None, FILES[0]])
        index = {"sources": (source,), "captions": captions, "prune": False, "ratio": 0.2}
        puts = [self._put_good(uri) for uri in chosen.sample(URIS, 3)]
        together = [change, Action("index", index, delay=chosen.randint(0, 150))]
        return [[Action("remove source", {"source": source})], puts, together]

    def _taken_down_meanwhile(self) -> list[list[Action]]:
        """Return phases: at the end an object is taken down while a run inserts its point.

        Of the three new points only that one is in the slow shard, and the last batch does not wait for it.
        """
        uris = URIS[3:6]
        index = Action("index", {"sources": PLACES[2:], "captions": None, "prune": True, "ratio": 1.0})
        gone = [Action("delete", {"uri": uri}) for uri in uris]
        takedown = Action("take down", {"uri": uris[1]}, delay=self._random.randint(15, 40))
        return [gone, [index], [self._put_good(uri) for uri in uris], [index, takedown]]

    def _described_meanwhile(self) -> list[list[Action]]:
        """Return phases: at the end one run prunes captions, mostly while another one writes those of its own file."""
        chosen, uris = self._random, self._random.sample(URIS, 4)
        index = {"sources": PLACES[2:], "prune": False, "ratio": 1.0}
        before = {uri: self._text() for uri in uris[:2]}
        after = {uri: chosen.choice(["", before.get(uri, "")]) for uri in uris}
        files = [self._rows(FILES[0], after), self._rows(FILES[1], {uri: self._text() for uri in uris[1:]})]
        prune = Action("index", index | {"captions": FILES[0], "prune_captions": True}, delay=chosen.randint(0, 20))
        other = Action("index", index | {"captions": FILES[1]}, delay=chosen.randint(0, 20))
        captions = [self._rows(FILES[0], before), self._rows(FILES[1], {uris[0]: self._text()})]
        last = [prune, other] if chosen.random() < 0.7 else [prune]
        runs = [[Action("index", index | {"captions": file})] for file in chosen.sample(FILES, 2)]
        if chosen.random() < 0.3:  # a re-index prunes by the files that are recorded, while the other one becomes so
            options = {"model": None, "ratio": 1.0, "prune_captions": True}
            runs, last = [runs[0]], [Action("reindex", options, delay=chosen.randint(0, 20)), other]
        return [[*captions, *map(self._put_good, uris)], *runs, files, last]

    def _put_good(self, uri: str) -> Action:
        return Action("put", {"uri": uri, "content": self._content("good")})

    def _run(self) -> Action:
        chosen = self._random
        kinds = {"index": 6.0, "reindex": 4.0}
        kinds |= {"roll back": 0.5, "release": 0.5} if "rollbacks" in self._features else {}
        kind = chosen.choices(list(kinds), list(kinds.values()))[0]
        if kind == "index":
            return self._index()
        if kind == "reindex":
            model = chosen.choice([None, *MODELS])
            options = {"model": model, "ratio": chosen.choice([0.2, 0.2, 0.5, 1.0]), **self._rare_options()}
            options |= {"allow_loss": chosen.choice([0, 0, 1, 9])} if "archived objects" in self._features else {}
            return self._hurt(Action("reindex", options))
        return Action(kind)

    def _index(self) -> Action:
        chosen = self._random
        places = list(PLACES)
        places += [f"{place}/" for place in places[:2]] if "two spellings" in self._features else []
        options = {
            "sources": tuple(chosen.sample(places, chosen.choice([1, 1, 1, 2]))),
            "captions": chosen.choice(self._files()) if chosen.random() < 0.5 else None,
            "prune": chosen.random() < 0.5,
            "ratio": chosen.choice([0.2, 0.5, 1.0]),
            "bad_node": "bad nodes" in self._features and chosen.random() < 0.1,
            **self._rare_options(),
        }
        if "limits" in self._features and chosen.random() < 0.05:  # the command line refuses to prune then
            options |= {"prune": False, "limit": chosen.randint(1, 4)}
        return self._hurt(Action("index", options))

    def _rare_options(self) -> dict[str, Any]:
        features = {"retry_failed": "retries", "prune_captions": "pruned captions"}
        return {name: each in self._features and self._random.random() < self._often for name, each in features.items()}

    def _endpoint(self) -> Action:
        return Action("endpoint", {"etags": self._random.choice(["digest", *objects.ETAGS])})

    def _hurt(self, run: Action) -> Action:
        """Return a run with faults, perhaps a kill, and a clock that is wrong."""
        chosen = self._random
        faults: dict[int, str] = {}
        names = {name for name in (*objects.FAULTS, *stores.FAULTS) if self._allows(name)}
        special = names & _SPECIAL_FAULTS.keys()
        if chosen.random() < (max(0.3, self._often) if special else 0.3):
            names = special if special and chosen.random() < self._often else names
            faults = {chosen.randint(1, 150): chosen.choice(sorted(names)) for _ in range(chosen.randint(1, 3))}
        kill_at = chosen.randint(1, 150) if "kills" in self._features and chosen.random() < 0.15 else None
        skew_s = chosen.choice([0, 0, -300, 300, 60]) if "clocks" in self._features else 0
        return self._with(run, faults=faults, kill_at=kill_at, skew_s=skew_s)

    def _allows(self, fault: str) -> bool:
        return fault not in _SPECIAL_FAULTS or _SPECIAL_FAULTS[fault] in self._features

    def _put(self, uri: str) -> Action:
        kinds = {"good": 12, "bad": 1, "text": 1}
        kinds |= {"heic": 1} if "decoder upgrades" in self._features else {}
        kinds |= {"nan": 1} if "vectors that are not finite" in self._features else {}
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        return Action("put", {"uri": uri, "content": self._content(kind)})

    def _content(self, kind: str) -> bytes:
        self._number += 1
        text = f"{kind} {self._number:04}".encode()
        return text if kind == "text" else text + b" :\0"  # the header of an IM image, so that it is read whole

    def _captions(self, file: str) -> Action:
        chosen = self._random
        uris = sorted(chosen.sample(URIS, chosen.randint(1, 5)))
        uris += [] if "captions of nothing" in self._features else ANCHORS
        return self._rows(file, {uri: self._text() for uri in uris})

    @staticmethod
    def _rows(file: str, rows: dict[str, str]) -> Action:
        return Action("captions", {"file": file, "rows": rows})

    def _text(self) -> str:
        self._number += 1
        if "blank captions" in self._features and self._random.random() < self._often:
            return ""
        return f"{self._random.choice(_WORDS)} {self._number}"

    def _files(self) -> tuple[str, ...]:
        return FILES if "several captions files" in self._features else FILES[:1]

    @staticmethod
    def _with(action: Action, **changes: Any) -> Action:
        return Action(**{**vars(action), **changes})
