"""Parallel listing: every key once for any tree, and an error if a request fails."""

import random
import threading
from collections.abc import Iterator

import pytest

from viewfinder.errors import ViewfinderError
from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.parallel_listing import ListingPage, list_parallel

PAGE = 5


class Tree:
    """An endpoint with `PAGE` entries per response, in the order of the keys."""

    def __init__(self, keys: list[str], *, fails_after: int | None = None, in_order: bool = True) -> None:
        self.keys = sorted(keys, reverse=not in_order)
        self.requests = 0
        self._fails_after = fails_after
        self._lock = threading.Lock()

    def __call__(self, prefix: str, after: str, shallow: bool) -> Iterator[ListingPage]:
        entries = list(dict.fromkeys(self._entry(key, prefix, shallow) for key in self.keys if key.startswith(prefix)))
        entries = [entry for entry in entries if entry > after]
        for start in range(0, max(len(entries), 1), PAGE):
            with self._lock:
                self.requests += 1
                if self._fails_after is not None and self.requests > self._fails_after:
                    raise ViewfinderError("planned")
            part = entries[start : start + PAGE]
            objects = [_info(entry) for entry in part if entry in self.keys]
            prefixes = [entry for entry in part if entry not in self.keys]
            yield ListingPage(objects, prefixes, start + PAGE < len(entries))

    @staticmethod
    def _entry(key: str, prefix: str, shallow: bool) -> str:
        name, slash, _ = key.removeprefix(prefix).partition("/")
        return prefix + name + slash if shallow else key


def _info(key: str) -> ObjectInfo:
    return ObjectInfo(f"s3://b/{key}", "b", key, 1, "", "")


def _random(seed: int) -> list[str]:
    draw = random.Random(seed)
    parts = ["a", "b", "b-", "b0", "c" * 3, "é", "中", "\U0001f600", " ", "!"]
    return [
        "/".join(draw.choice(parts) + str(draw.randrange(9)) for _ in range(draw.randint(1, 4))) for _ in range(400)
    ]


TREES = {
    "nothing": [],
    "one page": ["1", "2", "d/3"],
    "flat": [f"{number:03}" for number in range(63)],
    "one deep directory": [f"a/b/c/{number:03}" for number in range(63)],
    "few directories": [f"{number % 3}/{number:03}" for number in range(63)],
    "many small directories": [f"d{number:03}/{part}" for number in range(150) for part in "xy"],
    "one large among many small": [f"d{number:03}/x" for number in range(90)] + [f"d050/{i:03}" for i in range(99)],
    "objects, then directories": [f"a{i:02}" for i in range(17)] + [f"b{i:02}/x" for i in range(17)],
    "directories, then objects": [f"a{i:02}/x" for i in range(17)] + [f"b{i:02}" for i in range(17)],
    "mixed": [f"{i:02}" + ("/x" if i % 7 == 0 else "") for i in range(80)],
    "a name that is an object and a directory": [f"{i:02}" for i in range(20)] + [f"{i:02}/x" for i in range(20)],
} | {f"random {seed}": sorted(set(_random(seed))) for seed in range(6)}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("keys", TREES.values(), ids=TREES)
def test_every_key_is_found_once(keys: list[str], threads: int) -> None:
    found = [info.key for objects in list_parallel(Tree(keys), "", threads=threads) for info in objects]
    assert sorted(found) == sorted(keys)


def test_only_keys_under_the_prefix_are_found() -> None:
    tree = Tree([f"{top}/{number:02}/x" for top in ("p", "p2") for number in range(40)])
    found = [info.key for objects in list_parallel(tree, "p/", threads=4) for info in objects]
    assert len(found) == len(set(found)) == 40


def test_many_small_directories_share_requests() -> None:
    tree = Tree([f"d{number:04}/x" for number in range(1000)])
    assert sum(len(objects) for objects in list_parallel(tree, "", threads=4)) == 1000
    assert (
        tree.requests < 800
    )  # 200 pages of the level, 200 full pages below it, and discarded keys at the ends of ranges


def test_a_flat_prefix_costs_one_request_more_than_its_pages() -> None:
    tree = Tree(TREES["flat"])
    assert sum(len(objects) for objects in list_parallel(tree, "", threads=4)) == 63
    assert tree.requests == 1 + 13  # one request to find its size, then 13 pages


@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_a_failure_of_any_request_fails_the_listing(after: int) -> None:
    tree = Tree(TREES["many small directories"], fails_after=after)
    with pytest.raises(ViewfinderError, match="planned"):
        list(list_parallel(tree, "", threads=4))


def test_an_endpoint_that_does_not_sort_keys_is_refused() -> None:
    tree = Tree(TREES["many small directories"], in_order=False)
    with pytest.raises(ViewfinderError, match=r"in order.*FETCH_THREADS=1"):
        list(list_parallel(tree, "", threads=4))


def test_ending_the_iteration_early_ends_all_threads() -> None:
    before = threading.active_count()
    objects = list_parallel(Tree(TREES["one large among many small"]), "", threads=4)
    next(objects)
    objects.close()
    assert threading.active_count() == before
