"""`viewfinder sources list` and `remove`."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Viewfinder
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, StoreAddress, open_local
from viewfinder.store.recorded import SourceRecord
from viewfinder.store.schema import ModelIdentity

DECOMPOSED = unicodedata.normalize("NFD", "s3://b/Été")


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with an image in both sources, and one in each."""
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        collection = store.collections.open("images", ModelIdentity("m", "f" * 12, 2))
        records = store.collections.records(collection)
        records.record_sources([SourceRecord("s3://b/p", include=("*.jpg",)), SourceRecord(DECOMPOSED)])
        records.record_captions("s3://b/p", "s3://b/captions.csv")
        of = {"both": ["s3://b/p", DECOMPOSED], "one": ["s3://b/p"], "other": [DECOMPOSED]}
        payloads = [{"uri": name, "sources": sources} for name, sources in of.items()]
        batch = PointBatch([point_id(f"s3://{name}") for name in of], payloads, image=np.ones((3, 2), np.float32))
        store.points.upsert(collection, batch, wait=True)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path))
    return tmp_path


def test_sources_are_listed_with_what_is_recorded(recorded: Path, viewfinder: Viewfinder) -> None:
    (other, first) = sorted(json.loads(viewfinder("sources", "list", "--json").out), key=lambda each: len(each["uri"]))
    first, other = (first, other) if first["uri"] == "s3://b/p" else (other, first)
    assert first == {
        "uri": "s3://b/p",
        "include": ["*.jpg"],
        "exclude": [],
        "max_objects": None,
        "captions": ["s3://b/captions.csv"],
        "points": 2,
    }
    assert (other["uri"], other["points"]) == (DECOMPOSED, 2)
    assert "s3://b/captions.csv" in viewfinder("sources", "list").out


@pytest.mark.parametrize("typed", ["s3://b/p/", unicodedata.normalize("NFC", DECOMPOSED)])
def test_a_removed_source_takes_its_own_points_with_it(typed: str, recorded: Path, viewfinder: Viewfinder) -> None:
    done = viewfinder("sources", "remove", typed, "--yes", "--json")
    assert json.loads(done.out)["deleted"] == 1
    with open_local(StoreAddress(data_dir=recorded)) as store:
        live = store.collections.require_live("images")
        (left,) = live.recorded.sources
        assert json.loads(done.out)["source"] != left
        assert {tuple(each.payload["sources"]) for each in store.points.iterate(live)} == {(left,)}
        assert store.points.count(live) == 2


def test_an_interrupted_removal_can_be_completed(recorded: Path, viewfinder: Viewfinder) -> None:
    """The source was forgotten first, and the next command knew none of this name."""
    with open_local(StoreAddress(data_dir=recorded)) as store:
        live = store.collections.require_live("images")
        store.collections.records(live).remove_sources(["s3://b/p"])
    assert json.loads(viewfinder("sources", "remove", "s3://b/p", "--yes", "--json").out)["deleted"] == 1
    assert viewfinder("sources", "remove", "s3://b/p", "--yes").status == 2


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["remove", "s3://b/q", "--yes"], 2, "Did you mean 's3://b/p'?"),
        (["remove", "s3://b/p"], 2, "pass --yes"),
        (["remove"], 2, "takes one source"),
        (["list", "s3://b/p"], 2, "takes none"),
    ],
)
def test_a_mistake_says_what_to_do(
    arguments: list[str], status: int, says: str, recorded: Path, viewfinder: Viewfinder
) -> None:
    done = viewfinder("sources", *arguments)
    assert (done.status, says in done.err) == (status, True)
