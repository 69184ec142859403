"""Faults that the benchmark of swaps counts."""

from typing import Any

import pytest

from benchmarks.clients import Answer, Clients
from benchmarks.swaps import Truth

TRUTH = Truth(
    models={"one": "demo", "two": "demo-small"},
    runs={"one": frozenset({"run-1"}), "two": frozenset({"run-2"})},
    hits={("one", "a cat"): ["1", "2"], ("two", "a cat"): ["2", "1"], ("two", "a dog"): ["1"]},
    relevant={"a cat": "1", "a dog": "3"},
)


def answer(model: str, collection: str, *hits: tuple[str, str], text: str = "a cat") -> Answer:
    found: list[dict[str, Any]] = [{"uri": uri, "payload": {"run_id": run}} for uri, run in hits]
    return Answer(text, 200, {"model": model, "collection": collection, "hits": found})


@pytest.mark.parametrize(
    ("given", "mixed"),
    [
        (answer("demo", "one", ("1", "run-1")), False),
        (answer("demo-small", "two", ("2", "run-2"), ("1", "run-2")), False),
        (answer("demo-small", "one", ("1", "run-1")), True),
        (answer("demo", "one", ("1", "run-1"), ("2", "run-2")), True),
        (answer("demo", "three"), True),
    ],
)
def test_a_response_is_mixed_if_model_collection_and_hits_do_not_match(given: Answer, mixed: bool) -> None:
    assert TRUTH.mixed(given) == mixed


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        (answer("demo", "one", ("2", "run-1"), ("1", "run-1")), False),
        (answer("demo", "one", ("2", "run-1")), True),
        (answer("demo-small", "two", ("2", "run-2"), text="a dog"), False),
    ],
)
def test_a_hit_is_lost_if_the_collection_finds_it_without_load(given: Answer, lost: bool) -> None:
    assert TRUTH.lost(given) == lost


def test_recall_counts_own_images_down_to_a_depth() -> None:
    asked = [("a cat", ["1", "2"]), ("a cat", ["2", "1"])]
    assert (TRUTH.recall(asked, 1), TRUTH.recall(asked, 2)) == (0.5, 1.0)


def test_a_broken_connection_is_a_failed_response() -> None:
    clients = Clients("http://127.0.0.1:9", ["a cat"], 2)
    with clients.asking():
        clients.wait_for(lambda given: given.status == 0, 2)
    assert len(clients.failed) == len(clients.answers) >= 2
