"""The simulated world: objects, a store, and the programs that people start."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.simulation.models import Decoder, SimulatedExecutor, model_directory
from tests.simulation.objects import PHOTOS, Bucket, SimulatedConnection, StoredObject
from tests.simulation.points import Point
from tests.simulation.scheduler import Scheduler, Task
from tests.simulation.stores import Database, open_store
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.prune import remove_source
from viewfinder.indexing.report import Report
from viewfinder.indexing.run import Indexer, index
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.rollback import release, roll_back
from viewfinder.reindexing.workflow import reindex
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.captions import CaptionRecord
from viewfinder.sources.s3 import S3Objects
from viewfinder.sources.uris import point_id
from viewfinder.store import Store, StoreAddress

INDEX = "images"
BLANK = "bla\N{COMBINING DIAERESIS}nk"  # the tag of a record without a text, which stores write otherwise
SHARED_MEMORY = Path("/dev/shm")


class World:
    """All state of one history. `on_server` selects the store: a server, or the embedded one."""

    def __init__(self, *, on_server: bool) -> None:
        shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.directory = Path(tempfile.mkdtemp(prefix="viewfinder-simulation-", dir=shared))
        (self.directory / "qdrant").mkdir()
        self.scheduler = Scheduler()
        self.bucket = Bucket(self.scheduler)
        self.database = Database(self.scheduler, self.directory, replicated=on_server)
        self.decoder_version = 1
        self.model = "first"
        self.sources: set[str] = set()  # all that a run was started with
        self.taken_down: dict[str, int] = {}  # the step of each takedown, by URI
        self.removed: set[str] = set()  # sources that were removed, and that a rollback may bring back
        url = "http://127.0.0.1:9" if on_server else None
        self.address = StoreAddress(self.directory, url=url, quantization="none")
        self.store = open_store(self.database, self.address)

    def close(self) -> None:
        self.database.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- Changes of objects -------------------------------------------------------------------------------------------

    def write_captions(self, uri: str, rows: Mapping[str, str]) -> None:
        """Replace a captions file. Rows are texts by URI; a blank one has a tag, so that it says something."""
        lines = ["key,caption,tags", *(f"{key},{text},{'' if text else BLANK}" for key, text in rows.items())]
        self.bucket.put(uri, "\n".join(lines).encode())

    def captions(self, uri: str) -> dict[str, str]:
        """Return the texts in a captions file as it is now."""
        stored = self.bucket.objects.get(uri)
        return {} if stored is None else parse_captions(stored.content)

    # -- Programs -----------------------------------------------------------------------------------------------------

    def index(self, task: Task, options: IndexOptions, *, bad_node: bool = False) -> Any:
        """`viewfinder index`."""
        self.sources |= {source.rstrip("/") for source in options.sources}
        settings, access, store = self._program()
        task.seen["decoder"] = self.decoder_version
        with Report.open(settings, access, f"s3://reports/{task.name}") as report:
            executor = SimulatedExecutor(Decoder(self.decoder_version, bad_node=bad_node))
            return index(options, settings, store, executor, access=access, report=report)

    def reindex(self, task: Task, options: ReindexOptions) -> Any:
        """`viewfinder reindex`."""
        settings, access, store = self._program()
        task.seen["decoder"] = self.decoder_version
        with (
            Report.open(settings, access, f"s3://reports/{task.name}") as report,
            report.workspace() as workspace,
        ):
            executor = SimulatedExecutor(Decoder(self.decoder_version, bad_node=False))
            indexer = Indexer(settings, store, executor, report.run_id, workspace, access=access)
            return reindex(options, settings, store, indexer, report, access=access)

    def roll_back(self) -> None:
        """`viewfinder reindex --rollback`."""
        settings, _, store = self._program()
        self.sources |= self.removed
        roll_back(settings, store)

    def release(self) -> None:
        """`viewfinder reindex --release`."""
        settings, _, store = self._program()
        release(settings, store)

    def remove_source(self, uri: str) -> None:
        """`viewfinder sources remove`."""
        _, _, store = self._program()
        live = store.collections.live(INDEX)
        if live is not None and uri in live.recorded.sources:
            remove_source(store, live, uri)
        self.sources.discard(uri)
        self.removed.add(uri)

    def take_down(self, uri: str) -> None:
        """`viewfinder takedown`."""
        _, _, store = self._program()
        store.take_down(INDEX, {point_id(uri): uri})
        self.taken_down[uri] = self.scheduler.steps
        self.bucket.touch(uri)

    def restore(self, uri: str) -> None:
        """`viewfinder restore`."""
        _, _, store = self._program()
        self.taken_down.pop(uri, None)
        self.bucket.touch(uri)
        store.restore(INDEX, [point_id(uri)])
        self.bucket.touch(uri)  # a run beside it may have deleted the point until now

    def _program(self) -> tuple[Settings, ObjectAccess, Store]:
        """The settings, access to objects and store of a program that starts now."""
        settings = Settings(
            index=INDEX,
            data_dir=self.directory,
            model=model_directory(self.model),
            fetch_threads=1,
            write_batch_size=2,
            device="cpu",
            precision="float32",
            server="http://127.0.0.1:9",
            max_image_pixels=10**6 * self.decoder_version,  # the limits are part of the decoder's version
        )
        access = ObjectAccess(threads=1)
        s3 = S3Objects(access, SimulatedConnection(self.bucket, access))
        access = ObjectAccess(threads=1, backends=(("s3", s3),))
        return settings, access, open_store(self.database, self.address)

    # -- What is there ------------------------------------------------------------------------------------------------

    def photos(self) -> dict[str, StoredObject]:
        """Return the photos by URI."""
        return {uri: stored for uri, stored in self.bucket.objects.items() if uri.startswith(PHOTOS)}

    def summary(self, name: str) -> dict[str, Any]:
        """Return the summary.json of a run, {} without one."""
        stored = self.bucket.objects.get(f"s3://reports/{name}/summary.json")
        return {} if stored is None else json.loads(stored.content)

    def collections(self) -> list[str]:
        """Return the names of all collections of the index."""
        return [name for name in self.database.local.collections if not name.endswith("__control")]

    def live(self) -> str | None:
        """Return the name of the live collection."""
        return self.database.local.aliases.get(INDEX)

    def points(self, name: str) -> dict[str, Point]:
        """Return the points of a collection by URI."""
        self.database.shards.settle()
        records, _ = self.database.local.call(
            "scroll", collection_name=name, limit=1000, with_payload=True, with_vectors=True
        )
        return {record.payload["uri"]: Point.of(record) for record in records}

    def live_points(self) -> dict[str, Point]:
        """Return the points of the live collection by URI; none if there is no such collection."""
        live = self.live()
        return {} if live is None else self.points(live)


def parse_records(content: bytes) -> dict[str, CaptionRecord]:
    """Return the records of a captions file by URI."""
    rows = (line.split(",") for line in content.decode().splitlines()[1:])
    return {uri: CaptionRecord.of(text or None, [tag] if tag else []) for uri, text, tag in rows}


def parse_captions(content: bytes) -> dict[str, str]:
    """Return the texts in a captions file by URI, without blank ones."""
    return {uri: record.caption for uri, record in parse_records(content).items() if record.caption}
