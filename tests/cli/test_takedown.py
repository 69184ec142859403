"""`viewfinder takedown` and `restore`: through a service with a key, and in the store without one."""

import json
import os
import pty
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import PROGRAM, ROOT, Viewfinder
from tests.fixtures.services import ADMIN_KEY, METRICS_KEY, READ_KEY, Gallery
from viewfinder import Client
from viewfinder.models.checkpoint import locate
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, StoreAddress, open_local
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow


def test_take_down_and_restore_through_a_service(
    locked: Gallery, viewfinder: Viewfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", locked.url)
    monkeypatch.setenv("VIEWFINDER_API_KEY", ADMIN_KEY)
    uri, id_ = locked.uris[1], point_id(locked.uris[1])
    done = viewfinder("takedown", uri, "--yes")
    assert f"{uri} is taken down" in done.out
    assert f"viewfinder restore {id_}" in done.out
    again = json.loads(viewfinder("takedown", id_, "--yes", "--json").out)
    assert again == {"id": id_, "uri": uri, "removed": False, "before": True, "nearest": []}
    assert f"The takedown of {id_} is lifted" in viewfinder("restore", id_).out
    nothing = viewfinder("restore", id_, "--json")
    assert json.loads(nothing.out) == {"id": id_, "restored": False, "nearest": []}
    assert (nothing.status, "was not taken down" in nothing.err) == (1, True)


def test_without_a_terminal_a_takedown_needs_yes(
    locked: Gallery, viewfinder: Viewfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_API_KEY", ADMIN_KEY)
    done = viewfinder("takedown", locked.uris[1], "--server", locked.url)
    assert (done.status, "error: Not a terminal: pass --yes to confirm." in done.err) == (2, True)
    with Client(locked.url, api_key=ADMIN_KEY) as client:
        assert client.takedowns() == []


@pytest.mark.parametrize(("answer", "hits"), [("y", 0), ("n", 1)])
def test_in_a_terminal_a_takedown_is_confirmed(locked: Gallery, answer: str, hits: int) -> None:
    id_ = point_id(locked.uris[1])
    controller, terminal = pty.openpty()
    with open(terminal, "rb") as stdin, open(controller, "wb", buffering=0) as keyboard:  # noqa: PTH123 - descriptors
        keyboard.write(f"{answer}\n".encode())
        done = subprocess.run(
            [*PROGRAM, "takedown", id_, "--server", locked.url],
            stdin=stdin,
            cwd=ROOT,
            env=os.environ | {"VIEWFINDER_API_KEY": ADMIN_KEY},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert f"Take down {locked.uris[1]}" in done.stderr
    assert done.returncode == hits
    with Client(locked.url, api_key=ADMIN_KEY) as client:
        assert sum(hit.id == id_ for hit in client.search("image 1")) == hits


@pytest.mark.parametrize(
    ("key", "arguments", "says"),
    [
        ("guessed", ["status"], "Set VIEWFINDER_API_KEY to a key of this service."),
        (READ_KEY, ["restore", "s3://b/k"], "viewfinder key --admin"),
        (METRICS_KEY, ["search", "a dog"], "This key is for metrics only. Send a key for searches."),
    ],
)
def test_a_missing_permission_names_the_setting(
    locked: Gallery,
    key: str,
    arguments: list[str],
    says: str,
    viewfinder: Viewfinder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", locked.url)
    monkeypatch.setenv("VIEWFINDER_API_KEY", key)
    done = viewfinder(*arguments)
    assert done.status == 2
    assert len(done.err.splitlines()) == 2, "which service was asked, and the error"
    assert says in done.err
    assert ("--admin" in done.err) is ("--admin" in says)
    assert key not in done.err


@pytest.fixture
def stored(tmp_path: Path, tiny_model: str, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the image s3://bucket/1.jpg, on a machine without a service."""
    checkpoint = locate(tiny_model)
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        collection = store.collections.open("images", ModelIdentity.of(checkpoint))
        vector = np.ones((1, checkpoint.dimension), np.float32)
        uri = "s3://bucket/1.jpg"
        store.points.upsert(
            collection, PointBatch([point_id(uri)], [{"uri": uri, "bucket": "bucket"}], image=vector), wait=True
        )
    monkeypatch.delenv("VIEWFINDER_SERVER", raising=False)
    monkeypatch.setenv("VIEWFINDER_PORT", str(unused_port))
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("subject", ["s3://bucket/1.jpg", "S3://bucket/1.jpg", point_id("s3://bucket/1.jpg")])
def test_without_a_service_the_store_itself_is_changed(subject: str, stored: Path, viewfinder: Viewfinder) -> None:
    uri, id_ = "s3://bucket/1.jpg", point_id("s3://bucket/1.jpg")
    down = json.loads(viewfinder("takedown", subject, "--yes", "--json").out)
    assert down == {"id": id_, "uri": uri, "removed": True, "before": False, "nearest": []}
    with open_local(StoreAddress(data_dir=stored)) as store:
        live = store.collections.live("images")
        assert live is not None
        assert store.points.count(live) == 0
        assert {each.uri for each in store.control("images").takedowns([id_]).values()} == {uri}
    again = viewfinder("takedown", subject, "--yes", "--json")
    assert (again.status, json.loads(again.out)["removed"]) == (0, False)
    assert json.loads(viewfinder("restore", subject, "--json").out) == {"id": id_, "restored": True, "nearest": []}
    assert json.loads(viewfinder("restore", subject, "--json").out)["restored"] is False


def test_a_name_that_is_not_in_the_index_fails_with_the_nearest_ones(stored: Path, viewfinder: Viewfinder) -> None:
    """A takedown of another name said "was not in the index" and exited with 0, and the image stayed found."""
    done = viewfinder("takedown", "s3://bucket/l.jpg", "--yes")
    assert (done.status, "Nearest: 's3://bucket/1.jpg'" in done.err) == (1, True)
    done = viewfinder("restore", "s3://bucket/1.jpg")
    assert (done.status, "Nearest: 's3://bucket/l.jpg'" in done.err) == (1, True)


@pytest.mark.parametrize("line", ["takedown s3://bucket/1.jpg --yes", "restore s3://bucket/1.jpg"])
def test_a_misspelled_index_is_refused_and_nothing_is_written(line: str, stored: Path, viewfinder: Viewfinder) -> None:
    done = viewfinder(*line.split(), "--index", "imges")
    done.check_message(2, "There is no index 'imges' in the embedded store")
    assert "Existing indexes: 'images'." in done.err
    with open_local(StoreAddress(data_dir=stored)) as store:
        assert list(store.control("imges").all_takedowns()) == []
