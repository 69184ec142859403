"""The model of a live index changed back and forth under a crowd: `python -m benchmarks.swaps`.

Pictures of the demo's corpus are indexed with one model by the job; Ray Serve answers from two replicas; then
`jobs/reindex.py` brings the other model, and `--rollback` the one before, again and again, while clients ask without a
pause. Told is what a user would mind: requests that failed, answers that mix collections, hits that were lost.
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

import httpx

from benchmarks.clients import TIMEOUT_S, Answer, Clients
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

INDEX = "swaps"
MODELS = ("demo", "demo-small")
CORPUS = Path(__file__).parents[1] / "demo" / "corpus"
DEPTH = 10
# So many answers in a row from the new collection: by then every replica gives them.
SETTLED = 64

Hits = list[str]


@dataclass(frozen=True)
class Truth:
    """What the answers of each collection have to be: its model, the runs that wrote it, its hits when all is quiet."""

    models: Mapping[str, str]
    runs: Mapping[str, frozenset[str]]
    hits: Mapping[tuple[str, str], Hits]
    relevant: Mapping[str, str]

    def recall(self, answers: Iterable[tuple[str, Hits]], depth: int) -> float:
        """The share of texts whose own picture is among the first `depth` hits."""
        return fmean(self.relevant[text] in hits[:depth] for text, hits in answers)

    def mixed(self, answer: Answer) -> bool:
        """Whether model and collection do not belong together, or a hit was not written by a run of the collection."""
        model, collection = answer.pair
        runs = self.runs.get(collection, frozenset())
        return self.models.get(collection) != model or any(
            hit["payload"]["run_id"] not in runs for hit in _hits(answer)
        )

    def lost(self, answer: Answer) -> bool:
        """Whether the relevant picture is missing, which this collection finds on a quiet service."""
        wanted = self.relevant[answer.text]
        found = [hit["uri"] for hit in _hits(answer)]
        return wanted in self.hits[answer.pair[1], answer.text] and wanted not in found


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 where no request failed, nothing was mixed and nothing lost, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swaps", description=__doc__, allow_abbrev=False)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--kill", action="store_true", help="then kill a replica (-9) and go on swapping")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="viewfinder-swaps-")))
        questions = _pictures(directory / "pictures", arguments.pictures)
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
    ok = _tell("while swapping", clients.answers[:swapped], truth)
    if arguments.kill:
        _tell("while a replica was killed and another one started", clients.answers[swapped:], truth)
    print(f"{arguments.clients} clients, {arguments.replicas} replicas, {arguments.pictures} pictures, {seconds:.0f} s")
    return 0 if ok else 1


def _swap(clients: Clients, store: Store) -> None:
    """One move of the alias by the job, and the time until every replica has followed."""
    _reindex("--rollback")
    live = store.collections.live(INDEX)
    assert live is not None
    clients.wait_for(partial(_names, live.name), SETTLED)


def _tell(what: str, answers: Sequence[Answer], truth: Truth) -> bool:
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


def _pictures(directory: Path, count: int) -> dict[str, str]:
    """So many pictures of the corpus; the URI that answers each question."""
    directory.mkdir()
    relevant = {}
    for line in (CORPUS / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        record = json.loads(line)
        shutil.copy(CORPUS / record["key"], directory)
        relevant[record["query"]] = (directory / record["key"]).as_uri()
    return relevant


@contextmanager
def _store(directory: Path) -> Iterator[Store]:
    """`VIEWFINDER_QDRANT_URL`, else a server for tests that answers as Qdrant does."""
    with ExitStack() as stack:
        if "VIEWFINDER_QDRANT_URL" not in os.environ:
            os.environ["VIEWFINDER_QDRANT_URL"] = stack.enter_context(QdrantDouble()).url
        os.environ.update(
            VIEWFINDER_INDEX=INDEX, VIEWFINDER_DATA_DIR=str(directory / "data"), VIEWFINDER_MODEL=MODELS[0]
        )
        yield stack.enter_context(connect(StoreAddress.of(Settings.load())))


@contextmanager
def _service(directory: Path, count: int) -> Iterator[str]:
    """An index of the pictures by the first model, and so many replicas that answer from it."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray import serve

    from jobs.index import main as index
    from viewfinder.service.app import application

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["VIEWFINDER_SERVER"] = url = f"http://127.0.0.1:{port}"
    # Room for the replicas, and for the stages of a job beside them.
    ray.init(address="local", num_cpus=count + 4, include_dashboard=False, log_to_driver=False)
    try:
        if index(["--source", str(directory / "pictures")]):
            raise SystemExit("The pictures could not be indexed.")
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
    """What both collections answer while nothing else happens."""
    hits: dict[tuple[str, str], Hits] = {}
    for _ in MODELS:
        _reindex("--rollback")
        live = store.collections.live(INDEX)
        assert live is not None
        quiet = Clients(url, list(relevant), 4, {"limit": DEPTH})
        with quiet.asking():
            quiet.wait_for(partial(_names, live.name), SETTLED)
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            for text in relevant:
                answer = quiet.ask_once(client, text)
                hits[answer.pair[1], text] = [hit["uri"] for hit in _hits(answer)]
    found = store.collections.all(INDEX)
    return Truth(
        models={each.name: each.metadata.model_name for each in found},
        runs={each.name: frozenset(each.metadata.runs) for each in found},
        hits=hits,
        relevant=relevant,
    )


def _names(collection: str, answer: Answer) -> bool:
    return answer.body.get("collection") == collection


def _hits(answer: Answer) -> list[dict[str, object]]:
    return list(answer.body["hits"])


def replicas() -> list[int]:
    """Process ids of the replicas on the Ray that this process has started, by the titles that Ray gives them."""
    return sorted(pid for pid in _descendants(os.getpid()) if _title(pid).startswith("ray::ServeReplica:"))


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(each) for each in path.read_text().split()]
        except OSError:  # it has just ended
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
