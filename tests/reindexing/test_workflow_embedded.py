"""A change of model in the embedded store."""

from collections.abc import Iterator

import pytest

from tests.fixtures.indexing import World
from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import fill
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.rollback import roll_back
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, open_local

pytestmark = pytest.mark.slow


@pytest.fixture
def embedded(world: World, tiny_model: str, other_model: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.delenv("VIEWFINDER_QDRANT_URL")
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:9")
    address = StoreAddress(data_dir=world.directory / "data")
    with open_local(address) as store:
        world.store = store
        fill(world.bucket, NAMES)
        world.sync()
        monkeypatch.setenv("VIEWFINDER_MODEL", other_model)
        yield Index(world, store, (tiny_model, other_model))


def test_the_model_changes_and_changes_back(embedded: Index) -> None:
    first = embedded.live
    (embedded.world.bucket / "05.jpg").unlink()
    assert embedded.reindex() == 0
    assert embedded.failed_checks == []
    assert embedded.live.metadata.fingerprint == locate(embedded.models[1]).fingerprint
    assert set(embedded.world.points) == set(NAMES) - {"05.jpg"}
    assert embedded.states == {"first 1": "retired", "other 2": "live"}
    checks = {each["name"]: each for each in embedded.summary["checks"]}
    assert checks["approximate/exact recall@10"]["passed"]
    assert checks["self-retrieval"]["value"] == 1

    roll_back(Settings.load(), embedded.store)
    assert embedded.live.name == first.name
    assert set(embedded.world.points) == set(NAMES), "the collection is as it was when it was retired"
    assert embedded.reindex("--model", embedded.models[0]) == 0
    assert set(embedded.world.points) == set(NAMES) - {"05.jpg"}
