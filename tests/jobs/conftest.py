"""A world for the index job: an S3 endpoint, a store, a small model, one Ray for the whole session."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.index import main
from viewfinder.store import Collection, Record, Store, StoreAddress, connect
from viewfinder.testing.models import tiny_checkpoint
from viewfinder.testing.qdrant import QdrantDouble
from viewfinder.testing.s3 import S3Endpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", seed=7))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("model") / "other", seed=8, dimension=16))


@pytest.fixture(scope="session")
def s3_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="session")
def s3(s3_root: Path) -> Iterator[S3Endpoint]:
    with S3Endpoint(s3_root) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ray_cluster(s3: S3Endpoint) -> Iterator[None]:
    """One Ray for all tests. Its workers inherit this environment, and with it the endpoint's credentials."""
    import ray

    keys = {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(keys)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    for name in keys:
        del os.environ[name]


@dataclass
class World:
    """A bucket, a store and the job between them."""

    bucket: Path
    source: str
    store: Store
    reports: Path
    index: str = "images"

    def run(self, *flags: str, source: str | None = None) -> int:
        """Run the job on the bucket; its exit status."""
        number = len(list(self.reports.iterdir()))
        self.report = self.reports / f"{number:02}"
        report = [] if "--report" in flags else ["--report", str(self.report)]
        return main(["--source", source or self.source, *report, *flags])

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


@pytest.fixture
def qdrant() -> Iterator[QdrantDouble]:
    with QdrantDouble(openapi=os.environ.get("QDRANT_OPENAPI")) as double:
        yield double
        assert not double.invalid, "requests that Qdrant's specification does not allow"


@pytest.fixture
def world(
    ray_cluster: None,
    s3: S3Endpoint,
    s3_root: Path,
    qdrant: QdrantDouble,
    tiny_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    bucket = s3_root / tmp_path.name.replace("_", "-").lower()
    bucket.mkdir()
    reports = tmp_path / "reports"
    reports.mkdir()
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", qdrant.url)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VIEWFINDER_MODEL", tiny_model)
    monkeypatch.setenv("VIEWFINDER_QDRANT_RETRY_S", "5")
    store = connect(StoreAddress(data_dir=tmp_path / "data", url=qdrant.url, retry_s=5))
    return World(bucket, f"s3://{bucket.name}", store, reports)
