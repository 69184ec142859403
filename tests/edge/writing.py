"""A program that changes a store at random, to be killed: `python -m tests.edge.writing DIRECTORY SEED`.

It prints each change before and after it is made. `Expected` reads these lines.
"""

import fcntl
import json
import random
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from viewfinder.edge.engine import SharedEngine

NAMES = ("a", "b")
ALIAS = "live"
DIMENSION = 64
COUNT = 120  # ids of points in each collection
# Graphs of this many kilobytes of vectors, 24 points: they are built and replaced all the time.
THRESHOLD_KB = 6
QUIET_S = 0.0
FLUSH_POINTS = 50

Change = dict[str, Any]


def id_of(number: int) -> str:
    """Return the id of a point."""
    return str(uuid.UUID(int=number + 1))


def draw(rng: random.Random, number: int) -> Change:
    """Return a random change. `number` is new, and becomes the value of what is written."""
    name = rng.choice(NAMES)
    kind = rng.choices(["put", "delete", "alias", "metadata", "recreate", "index", "close"], [40, 8, 8, 8, 1, 2, 1])[0]
    change: Change = {"kind": kind, "name": name, "number": number}
    if kind in ("put", "delete"):
        change["ids"] = rng.sample(range(COUNT), rng.randint(1, 40 if kind == "put" else 8))
    return change


def make(engine: SharedEngine, change: Change) -> None:
    """Make a change."""
    path, number = f"/collections/{change['name']}", change["number"]
    if change["kind"] == "put":
        points = [
            {"id": id_of(each), "vector": {"image": _vector(each, number)}, "payload": {"value": number, "of": each}}
            for each in change["ids"]
        ]
        engine.answer("PUT", f"{path}/points", {"points": points})
    elif change["kind"] == "delete":
        engine.answer("POST", f"{path}/points/delete", {"points": [id_of(each) for each in change["ids"]]})
    elif change["kind"] == "alias":
        action = {"create_alias": {"alias_name": ALIAS, "collection_name": change["name"]}}
        engine.answer("POST", "/collections/aliases", {"actions": [action]})
    elif change["kind"] == "metadata":
        engine.answer("PATCH", path, {"metadata": {"number": number}})
    elif change["kind"] == "index":
        engine.answer("PUT", f"{path}/index", {"field_name": f"field{number}", "field_schema": "integer"})
    elif change["kind"] == "recreate":
        engine.answer("DELETE", path)
        create(engine, change["name"])


def create(engine: SharedEngine, name: str) -> None:
    """Create a collection, unless it exists."""
    if not engine.exists(name):
        vectors = {"image": {"size": DIMENSION, "distance": "Cosine", "on_disk": True}}
        body = {"vectors": vectors, "optimizers_config": {"indexing_threshold": THRESHOLD_KB}}
        engine.answer("PUT", f"/collections/{name}", body)


def opened(directory: Path, quiet_s: float = QUIET_S) -> SharedEngine:
    """Open the store when no process has it any more."""
    lock = (directory / "lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return _LockedEngine(directory, lock, quiet_s)


class _LockedEngine(SharedEngine):
    def __init__(self, directory: Path, lock: IO[str], quiet_s: float) -> None:
        self._lock_file = lock
        super().__init__(directory, [lock.fileno()], quiet_s=quiet_s, flush_points=FLUSH_POINTS)

    def close(self) -> None:
        super().close()
        self._lock_file.close()


class Expected:
    """What must be stored after the changes that ended, and may be after the one that had begun."""

    def __init__(self) -> None:
        self.points: dict[str, dict[int, int]] = {name: {} for name in NAMES}
        self.metadata: dict[str, int | None] = dict.fromkeys(NAMES)
        self.alias: str | None = None
        self.begun: Change | None = None

    def read(self, lines: Iterable[str]) -> int:
        """Read the lines of a program; return the number of changes that ended."""
        ended = 0
        for line in lines:
            if not line.endswith("\n"):
                break  # the program was killed while it wrote this
            if line == "ended\n":
                assert self.begun is not None
                self._apply(self.begun)
                self.begun, ended = None, ended + 1
            else:
                self.begun = json.loads(line)
        return ended

    def check(self, engine: SharedEngine) -> None:
        """Compare with a store, and take over what of the last change was made."""
        begun = self.begun or {"kind": "", "name": "", "number": -1}
        aliases = {each["alias_name"]: each["collection_name"] for each in engine.answer("GET", "/aliases")["aliases"]}
        recreated = begun["name"] if begun["kind"] == "recreate" else None
        allowed = {self.alias} | ({begun["name"]} if begun["kind"] == "alias" else set())
        assert aliases.get(ALIAS) in allowed | ({None} if self.alias == recreated else set())
        self.alias = aliases.get(ALIAS)
        for name in NAMES:
            if name != recreated:
                self._check_points(engine, name, begun)
                number = engine.answer("GET", f"/collections/{name}")["config"]["metadata"].get("number")
                assert number == self.metadata[name] or (begun["kind"], begun["number"]) == ("metadata", number)
                self.metadata[name] = number
            else:
                create(engine, name)
                engine.answer("POST", f"/collections/{name}/points/delete", {"filter": {}})
                self.points[name], self.metadata[name] = {}, None
        self.begun = None

    def _check_points(self, engine: SharedEngine, name: str, begun: Change) -> None:
        found = engine.answer("POST", f"/collections/{name}/points/scroll", {"limit": COUNT, "with_vector": True})
        stored = {each["payload"]["of"]: each["payload"]["value"] for each in found["points"]}
        touched = set(begun.get("ids", ())) if begun["name"] == name else set()
        for each in range(COUNT):
            before = self.points[name].get(each)
            after = begun["number"] if begun["kind"] == "put" else None
            allowed = {before, after} if each in touched else {before}
            assert stored.get(each) in allowed, f"point {each} of {name} has {stored.get(each)}, not {allowed}"
        assert all(len(each["vector"]["image"]) == DIMENSION for each in found["points"])
        self.points[name] = stored

    def _apply(self, change: Change) -> None:
        name, number = change["name"], change["number"]
        if change["kind"] == "put":
            self.points[name] |= dict.fromkeys(change["ids"], number)
        elif change["kind"] == "delete":
            for each in change["ids"]:
                self.points[name].pop(each, None)
        elif change["kind"] == "alias":
            self.alias = name
        elif change["kind"] == "metadata":
            self.metadata[name] = number
        elif change["kind"] == "recreate":
            self.points[name], self.metadata[name] = {}, None
            self.alias = None if self.alias == name else self.alias


def _vector(each: int, number: int) -> list[float]:
    return [1.0 + (each * 31 + number * 17 + place * place) % 101 for place in range(DIMENSION)]


def main() -> None:
    """Make changes until the program is killed."""
    directory, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    engine = opened(directory)
    for name in NAMES:
        create(engine, name)
    number = seed * 1_000_000
    while True:
        number += 1
        change = draw(rng, number)
        print(json.dumps(change), flush=True)
        if change["kind"] == "close":
            engine.close()
            engine = opened(directory)
        else:
            make(engine, change)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
