"""`viewfinder status`, with and without a service."""

import json
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Viewfinder
from tests.fixtures.services import Running
from tests.indexing.sample_images import fill
from viewfinder.models.checkpoint import locate
from viewfinder.store import StoreAddress, open_local
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory on a machine without a service."""
    monkeypatch.delenv("VIEWFINDER_SERVER", raising=False)
    monkeypatch.setenv("VIEWFINDER_PORT", str(unused_port))
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_configured_service_is_shown(at_running: Running, viewfinder: Viewfinder) -> None:
    assert f"collection\t{at_running.collection}\n" in viewfinder("status").out
    document = json.loads(viewfinder("status", "--json").out)
    assert document["service"]["points"] == 5
    assert document["store"] is None


def test_the_collections_of_the_store_are_shown(alone: Path, tiny_model: str, viewfinder: Viewfinder) -> None:
    checkpoint = locate(tiny_model)
    with open_local(StoreAddress(data_dir=alone)) as store:
        made = store.collections.open("images", ModelIdentity.of(checkpoint))
    document = json.loads(viewfinder("status", "--json").out)
    assert document["service"] is None
    assert [each["name"] for each in document["store"]["collections"]] == [made.name]
    row = viewfinder("status").out.splitlines()[1].split("\t")
    assert (row[0], row[2], row[-1]) == (made.name, "live", "yes")


def test_a_server_that_does_not_answer_is_reported_at_once(
    alone: Path, unused_port: int, viewfinder: Viewfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", f"http://127.0.0.1:{unused_port}")
    began = time.monotonic()
    done = viewfinder("status")
    assert time.monotonic() - began < 30, "Qdrant calls of a job are retried for two minutes"
    assert done.status == 1
    assert "cannot be reached" in done.err


def test_without_an_index_the_status_says_how_to_create_one(alone: Path, viewfinder: Viewfinder) -> None:
    done = viewfinder("status", "--index", "cats")
    assert done.status == 0
    assert done.out == "There is no index 'cats' yet. Create it: viewfinder index SRC\n"


def test_a_change_of_model_that_did_not_get_to_its_end_is_shown(
    alone: Path,
    tiny_model: str,
    viewfinder: Viewfinder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("VIEWFINDER_MODEL", tiny_model)
    photos = tmp_path / "photos"
    fill(photos, ["a.jpg"])
    assert viewfinder("index", str(photos)).status == 0
    assert "did not get to its end" not in viewfinder("status").out
    with open_local(StoreAddress(data_dir=alone)) as store:
        live = store.collections.require_live("images")
        store.collections.update_metadata(live.name, behind="images__earlier")
    says = f"The change of model from images__earlier to {live.name} did not get to its end"
    assert says in viewfinder("status").out
    assert viewfinder("index", str(photos)).status == 0
    assert says in caplog.text
