"""Change the model of a live index repeatedly while clients search: `python -m benchmarks.swaps`.

The job indexes images of the demo corpus with one model, and two Ray Serve replicas serve them. Then `jobs/reindex.py`
builds the other model, and `--rollback` switches between the two while clients search without pause. Printed are failed
requests, responses that mix collections, and lost hits.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx

from benchmarks.clients import TIMEOUT_S, Answer, Clients
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

INDEX = "swaps"
MODELS = ("demo", "demo-small")
CORPUS = Path(__file__).parents[1] / "demo" / "corpus"
DEPTH = 10
# After this many responses in a row from the new collection, every replica is assumed to serve it.
RESPONSES_IN_A_ROW = 64

Hits = list[str]


@dataclass(frozen=True)
class Truth:
    """Expected responses of each collection: its model, the runs that wrote it, its hits without load."""

    models: Mapping[str, str]
    runs: Mapping[str, frozenset[str]]
    hits: Mapping[tuple[str, str], Hits]
    relevant: Mapping[str, str]

    def recall(self, answers: Iterable[tuple[str, Hits]], depth: int) -> float:
        """Share of texts whose own image is among the first `depth` hits."""
        return fmean(self.relevant[text] in hits[:depth] for text, hits in answers)

    def mixed(self, answer: Answer) -> bool:
        """True if model and collection do not match, or no run of the collection wrote one of the hits."""
        model, collection = answer.pair
        runs = self.runs.get(collection, frozenset())
        return self.models.get(collection) != model or any(
            hit["payload"]["run_id"] not in runs for hit in _hits(answer)
        )

    def lost(self, answer: Answer) -> bool:
        """True if the relevant image is missing although this collection finds it without load."""
        wanted = self.relevant[answer.text]
        found = [hit["uri"] for hit in _hits(answer)]
        return wanted in self.hits[answer.pair[1], answer.text] and wanted not in found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if no request failed, nothing was mixed and nothing lost, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swaps", description=__doc__, allow_abbrev=False)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--kill", action="store_true", help="then kill a replica (SIGKILL) and continue swapping")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="viewfinder-swaps-")))
        questions = _images(directory / "images", arguments.images)
        store = stack.enter_context(_store(directory))
        url = stack.enter_context(_service(directory, arguments.replicas))
        return _measure(store, url, directory, questions, arguments)


def _measure(
    store: Store, url: str, directory: Path, relevant: Mapping[str, str], arguments: argparse.Namespace
) -> int:
    _reindex("--model", MODELS[1])
    truth = _truth(store, url, relevant)
    clients = Clients(url, list(relevant), arguments.clients, {"limit": DEPTH})
    began = time.monotonic()
    with clients.asking():
        for number in range(arguments.swaps):
            _swap(clients, store)
            print(f"swap {number + 1}: {len(clients.answers):,} answers", file=sys.stderr)
        swapped = len(clients.answers)
        if arguments.kill:
            os.kill(replicas()[0], signal.SIGKILL)
            _swap(clients, store)
            while len(replicas()) < arguments.replicas:
                time.sleep(0.1)
            _swap(clients, store)
    seconds = time.monotonic() - began
    ok = _report("while swapping", clients.answers[:swapped], truth)
    if arguments.kill:
        _report("while a replica was killed and replaced", clients.answers[swapped:], truth)
    print(f"{arguments.clients} clients, {arguments.replicas} replicas, {arguments.images} images, {seconds:.0f} s")
    return 0 if ok else 1


def _swap(clients: Clients, store: Store) -> None:
    """Let the job move the alias, and wait until every replica has followed."""
    _reindex("--rollback")
    live = store.collections.live(INDEX)
    assert live is not None
    clients.wait_for(partial(_names, live.name), RESPONSES_IN_A_ROW)


def _report(what: str, answers: Sequence[Answer], truth: Truth) -> bool:
    good = [each for each in answers if each.status == 200]
    failed = Counter(
        f"{each.status} {each.body.get('error', {}).get('code')}" for each in answers if each.status != 200
    )
    mixed = sum(map(truth.mixed, good))
    lost = sum(map(truth.lost, good))
    print(f"{what}: {len(answers):,} answers, {failed.total()} failed {dict(failed)}, {mixed} mixed, {lost} hits lost")
    for collection, model in truth.models.items():
        own = [(each.text, [str(hit["uri"]) for hit in _hits(each)]) for each in good if each.pair[1] == collection]
        quiet = [(text, hits) for (name, text), hits in truth.hits.items() if name == collection]
        figures = ", ".join(
            f"recall@{depth} {truth.recall(own, depth):.3f} (quiet: {truth.recall(quiet, depth):.3f})"
            for depth in (1, DEPTH)
            if own
        )
        print(f"  {model}: {len(own):,} answers, {figures}")
    return not (failed.total() or mixed or lost)


# -- Parts ----------------------------------------------------------------------------------------------------------


def _images(directory: Path, count: int) -> dict[str, str]:
    """Copy `count` images of the corpus; return the URI of the relevant image by query."""
    directory.mkdir()
    relevant = {}
    for line in (CORPUS / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        record = json.loads(line)
        shutil.copy(CORPUS / record["key"], directory)
        relevant[record["query"]] = (directory / record["key"]).as_uri()
    return relevant


@contextmanager
def _store(directory: Path) -> Iterator[Store]:
    """The store at `VIEWFINDER_QDRANT_URL`, or else a double of Qdrant."""
    with ExitStack() as stack:
        if "VIEWFINDER_QDRANT_URL" not in os.environ:
            os.environ["VIEWFINDER_QDRANT_URL"] = stack.enter_context(QdrantDouble()).url
        os.environ.update(
            VIEWFINDER_INDEX=INDEX, VIEWFINDER_DATA_DIR=str(directory / "data"), VIEWFINDER_MODEL=MODELS[0]
        )
        yield stack.enter_context(connect(StoreAddress.of(Settings.load())))


@contextmanager
def _service(directory: Path, count: int) -> Iterator[str]:
    """Index the images with the first model and start `count` replicas; yield the address."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray import serve

    from jobs.index import main as index
    from viewfinder.service.app import application

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["VIEWFINDER_SERVER"] = url = f"http://127.0.0.1:{port}"
    # CPUs for the replicas and for the stages of a job.
    ray.init(address="local", num_cpus=count + 4, include_dashboard=False, log_to_driver=False)
    try:
        if index([str(directory / "images")]):
            raise SystemExit("The images could not be indexed.")
        settings = Settings.load(port=port, refresh_s=1, replica_cpus=0.5, min_replicas=count, max_replicas=count)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(settings), name=INDEX, route_prefix="/")
        yield url
        serve.shutdown()
    finally:
        ray.shutdown()


def _reindex(*flags: str) -> None:
    from jobs.reindex import main as reindex

    if reindex(list(flags)):
        raise SystemExit(f"jobs/reindex.py {' '.join(flags)} failed")


def _truth(store: Store, url: str, relevant: Mapping[str, str]) -> Truth:
    """Responses of both collections without load."""
    hits: dict[tuple[str, str], Hits] = {}
    for _ in MODELS:
        _reindex("--rollback")
        live = store.collections.live(INDEX)
        assert live is not None
        quiet = Clients(url, list(relevant), 4, {"limit": DEPTH})
        with quiet.asking():
            quiet.wait_for(partial(_names, live.name), RESPONSES_IN_A_ROW)
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            for text in relevant:
                answer = quiet.ask_once(client, text)
                hits[answer.pair[1], text] = [hit["uri"] for hit in _hits(answer)]
    found = store.collections.all(INDEX)
    return Truth(
        models={each.name: each.metadata.model_name for each in found},
        runs={each.name: frozenset(run.run_id for run in each.recorded.runs) for each in found},
        hits=hits,
        relevant=relevant,
    )


def _names(collection: str, answer: Answer) -> bool:
    return answer.body.get("collection") == collection


def _hits(answer: Answer) -> list[dict[str, Any]]:
    return list(answer.body["hits"])


def replicas() -> list[int]:
    """Ids of replica processes on the Ray that this process started, found by their titles."""
    return sorted(pid for pid in _descendants(os.getpid()) if _title(pid).startswith("ray::ServeReplica:"))


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(each) for each in path.read_text().split()]
        except OSError:  # the process has ended
            continue
        for child in children:
            yield child
            yield from _descendants(child)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
