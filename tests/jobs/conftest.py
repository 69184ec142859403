"""A world for the index job: a bucket, Qdrant's wire, a small model, and the job between them."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.index import main
from jobs.options import parse
from jobs.phases import Reindex
from jobs.reach import Reach
from jobs.reindex_options import parse as parse_reindex
from jobs.reindex_report import ReindexReport
from tests.jobs.inprocess import LIMITS, InProcess, Kept
from tests.jobs.pictures import fill
from viewfinder.models import locate
from viewfinder.objects import ObjectAccess
from viewfinder.retries import Retry
from viewfinder.server_client import ServerClient
from viewfinder.settings import Settings
from viewfinder.store import Collection, Record, Store, StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble
from viewfinder.testing.s3 import S3Endpoint

__all__ = ["LIMITS", "NAMES", "Index", "World"]

NAMES = [f"{number:02}.jpg" for number in range(12)]


@dataclass
class World:
    """A bucket, a store, and two ways from one to the other."""

    bucket: Path
    source: str
    reach: Reach
    store: Store
    model: str
    directory: Path
    kept: Kept
    index: str = "images"
    report: Path = Path()
    runs: int = 0

    def run(self, *flags: str, source: str | None = None) -> int:
        """The job itself, on Ray; its exit status."""
        self.runs += 1
        self.report = self.directory / f"report-{self.runs:02}"
        report = () if "--report" in flags else ("--report", str(self.report))
        return main(["--source", source or self.source, *report, *flags])

    def sync(self, *flags: str, source: str | None = None) -> dict[str, int]:
        """The job's stages one after the other in this process, without Ray; its counts."""
        self.runs += 1
        options = parse(["--source", source or self.source, *flags])
        checkpoint = locate(self.model)
        collection = self.store.open(
            self.index, checkpoint.name, asdict(checkpoint.spec), checkpoint.fingerprint, checkpoint.dimension
        )
        done = self.work(f"20260101T{self.runs:06}-test").sync(options, collection, checkpoint)
        self.pictures = done.outcome.tally.pictures
        self.withheld = done.outcome.tally.withheld
        self.store.update_metadata(collection.name, counts=done.counts)
        return done.counts

    def work(self, run_id: str) -> InProcess:
        """What does the work of a run in this process."""
        return InProcess(self.reach, self.store, self.directory / "manifests", run_id, self.kept)

    @property
    def summary(self) -> dict[str, Any]:
        """The last run's summary.json."""
        summary: dict[str, Any] = json.loads((self.report / "summary.json").read_text())
        return summary

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.summary["counts"]
        return counts

    @property
    def failures(self) -> dict[str, str]:
        """The last run's failures: reason by file name."""
        lines = (self.report / "failures.jsonl").read_text().splitlines()
        return {each["uri"].rpartition("/")[2]: each["reason"] for each in map(json.loads, lines)}

    @property
    def collection(self) -> Collection:
        live = self.store.live(self.index)
        assert live is not None
        return live

    @property
    def points(self) -> dict[str, Record]:
        """The live collection's points by key."""
        return {record.payload["key"]: record for record in self.store.iterate(self.collection)}

    def recorded_failures(self, names: Sequence[str]) -> dict[str, str]:
        """Reasons on record for objects of the bucket."""
        from viewfinder.objects import point_id

        ids = {point_id(f"{self.source}/{name}"): name for name in names}
        return {ids[each]: failure.reason for each, failure in self.store.failures(self.index, list(ids)).items()}


@dataclass
class Index:
    """An index whose model can be changed, and what the last run made of it."""

    world: World
    store: Store
    models: tuple[str, str]
    works: list[InProcess] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def reindex(self, *flags: str, meanwhile: Callable[[int], None] = lambda number: None) -> int:
        """One run of the job's phases."""
        number = len(self.works) + 1
        options = parse_reindex(list(flags))
        settings = Settings.load(index=options.index)
        report_directory = self.world.directory / f"reindex-{number}"
        report = ReindexReport.open(settings, self.world.reach.access, str(report_directory), dry_run=options.dry_run)
        work = self.world.work(report.run_id)
        work.meanwhile = meanwhile
        self.works.append(work)
        with report:
            status = Reindex(options, settings, self.world.reach, self.store, work, report).run()
        if not options.dry_run:
            self.summary = json.loads((report_directory / "summary.json").read_text())
        return status

    @property
    def live(self) -> Collection:
        return self.world.collection

    @property
    def states(self) -> dict[str, str]:
        """State by model and build."""
        return {
            f"{'first' if each.metadata.model_name == self.models[0] else 'other'} {each.build}": each.metadata.state
            for each in self.store.collections(self.world.index)
        }

    @property
    def failed_checks(self) -> list[str]:
        return [each["name"] for each in self.summary["checks"] if each["passed"] is False]


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.close()


@pytest.fixture
def qdrant() -> Iterator[QdrantDouble]:
    openapi = os.environ.get("QDRANT_OPENAPI")
    with QdrantDouble(openapi=Path(openapi) if openapi else None) as double:
        yield double
        assert not double.invalid, "requests that Qdrant's specification does not allow"


@pytest.fixture
def world(
    s3: S3Endpoint,
    s3_root: Path,
    qdrant: QdrantDouble,
    tiny_model: str,
    kept: Kept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    bucket = s3_root / tmp_path.name.replace("_", "-").lower()
    bucket.mkdir()
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", qdrant.url)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VIEWFINDER_MODEL", tiny_model)
    monkeypatch.setenv("VIEWFINDER_QDRANT_RETRY_S", "5")
    address = StoreAddress(data_dir=tmp_path / "data", url=qdrant.url, retry_s=5)
    reach = Reach(ObjectAccess(endpoint_url=s3.url), address)
    with connect(address) as store:
        yield World(bucket, f"s3://{bucket.name}", reach, store, tiny_model, tmp_path, kept)


@pytest.fixture
def index(world: World, tiny_model: str, other_model: str, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Twelve pictures, indexed with the first model; the settings ask for the other one from now on."""
    fill(world.bucket, NAMES)
    world.sync()
    monkeypatch.setenv("VIEWFINDER_MODEL", other_model)
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:9")
    address = world.store.address
    patient = Retry(5, sleep=lambda seconds: None)
    return Index(world, Store(ServerClient(address), address, patient), (tiny_model, other_model))
