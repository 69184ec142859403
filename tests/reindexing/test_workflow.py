"""Changing the model of an index, phase by phase: real S3, real small models, Qdrant's wire, no Ray."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.reindex import main
from tests.fixtures.indexing import NAMES, Index
from tests.indexing.pictures import fill, picture
from viewfinder.errors import ConfigurationError, SourceError
from viewfinder.indexing.prune import PruneRefusedError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.upgrade_lock import standing
from viewfinder.sources.objects import Objects, point_id
from viewfinder.store.records import PointBatch
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

# -- The change of a model ------------------------------------------------------------------------------------------


def test_another_model_gets_a_collection_of_its_own_and_the_alias(index: Index) -> None:
    before = index.live
    assert index.reindex() == 0
    assert index.live.name != before.name
    assert index.live.metadata.fingerprint == locate(index.models[1]).fingerprint
    assert index.live.metadata.dimension == 16
    assert set(index.world.points) == set(NAMES)
    assert index.states == {"first 1": "retired", "other 2": "live"}
    assert index.summary["state"] == "done"
    assert index.summary["former"] == before.name
    assert index.summary["counts"] == {"listed": 12, "unchanged": 0, "indexed": 12, "failed": 0, "pruned": 0}
    assert index.failed_checks == []
    assert set(index.summary["phases"]) == {"preflight", "build", "verify", "switch", "catch up", "clean up"}
    figures = {each["name"]: each["figure"] for each in index.summary["checks"]}
    assert figures["points"] == 12
    assert figures["fresh encoding"] == pytest.approx(1.0, abs=1e-3)
    assert figures["self-retrieval"] == 1
    assert figures["approximate/exact"] == 1
    assert index.works[0].checked == [index.world.source]
    assert standing(index.store.control("images")) is None


def test_every_stored_vector_is_the_new_models(index: Index) -> None:
    index.reindex()
    records = list(index.world.points.values())
    fresh = index.works[0].encode_pictures(locate(index.models[1]), records)
    stored = index.store.points.vectors(index.live, [each.id for each in records])
    assert fresh.keys() == stored.keys()
    assert all(fresh[id_] @ stored[id_] > 0.999 for id_ in fresh)


def test_the_same_model_is_brought_up_to_date_in_place(index: Index) -> None:
    before = index.live
    (index.world.bucket / "03.jpg").write_bytes(picture(99, (64, 64)))
    (index.world.bucket / "05.jpg").unlink()
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    assert index.reindex("--model", index.models[0]) == 0
    assert index.live.name == before.name
    assert index.summary["counts"] == {"listed": 12, "unchanged": 10, "failed": 0, "indexed": 2, "pruned": 1}
    assert set(index.world.points) == {*NAMES, "new.jpg"} - {"05.jpg"}
    assert index.world.points["03.jpg"].payload["width"] == 64
    assert index.reindex("--model", index.models[0]) == 0
    assert index.summary["counts"] == {"listed": 12, "unchanged": 12, "failed": 0, "indexed": 0, "pruned": 0}


def test_when_model_changed_does_nothing_else(index: Index) -> None:
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    assert index.reindex("--when-model-changed", "--model", index.models[0]) == 0
    assert index.works[0].passes == []
    assert index.reindex("--when-model-changed") == 0
    assert index.live.metadata.model_name == index.models[1]


def test_a_scheduled_run_that_finds_the_wanted_model_only_looks(
    index: Index, qdrant: QdrantDouble, tmp_path: Path
) -> None:
    before = len(qdrant.requests)
    assert main(["--when-model-changed", "--model", index.models[0]]) == 0
    asked = {f"{each.method} {each.path}" for each in qdrant.requests[before:]}
    assert asked <= {"GET /", "GET /aliases", "GET /collections", f"GET /collections/{index.live.name}"}
    assert not (tmp_path / "data" / "runs").exists(), "nor does it leave a report every hour"


def test_weights_that_moved_under_the_same_name_are_another_model(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(index.models[0], moved)
    index.world.model, index.world.index = str(moved), "moving"
    index.world.sync()
    shutil.rmtree(moved)
    shutil.copytree(index.models[1], moved)
    assert index.reindex("--index", "moving", "--when-model-changed", "--model", str(moved)) == 0
    first, second = index.store.collections.all("moving")
    assert first.metadata.model_name == second.metadata.model_name
    assert first.metadata.fingerprint != second.metadata.fingerprint
    assert index.live.name == second.name


def test_a_rebuild_makes_a_new_collection_with_the_same_model(index: Index) -> None:
    before = index.live
    assert index.reindex("--rebuild", "--model", index.models[0]) == 0
    assert index.live.name != before.name
    assert index.states == {"first 1": "retired", "first 2": "live"}


def test_objects_that_change_during_the_build_are_right_after_the_switch(index: Index) -> None:
    bucket = index.world.bucket

    def change(number: int) -> None:
        if number == 1:
            (bucket / "03.jpg").write_bytes(picture(99, (64, 64)))
            (bucket / "05.jpg").unlink()
            fill(bucket, ["late.jpg"], first_seed=50)
        if number == 2:
            (bucket / "06.jpg").unlink()
            fill(bucket, ["later.jpg"], first_seed=51)

    assert index.reindex(meanwhile=change) == 0
    assert set(index.world.points) == {*NAMES, "late.jpg", "later.jpg"} - {"05.jpg", "06.jpg"}
    assert index.world.points["03.jpg"].payload["width"] == 64
    etags = {name: record.payload["etag"] for name, record in index.world.points.items()}
    index.world.model = index.models[1]
    assert index.world.sync("--prune")["indexed"] == 0
    assert {name: record.payload["etag"] for name, record in index.world.points.items()} == etags


def test_what_changes_while_the_alias_moves_follows_after_the_switch(index: Index) -> None:
    seen: list[str] = []

    def change(number: int) -> None:
        # After the build's two rounds comes the pass over the collection that is live by now.
        if index.live.metadata.model_name == index.models[1] and not seen:
            seen.append(index.live.name)
            fill(index.world.bucket, ["last.jpg"], first_seed=52)

    assert index.reindex(meanwhile=change) == 0
    assert seen, "there was a pass after the switch"
    assert index.reindex() == 0
    assert "last.jpg" in index.world.points


def test_a_bucket_that_never_rests_is_switched_all_the_same(index: Index) -> None:
    def grow(number: int) -> None:
        fill(index.world.bucket, [f"more-{number}.jpg"], first_seed=100 + number)

    assert index.reindex(meanwhile=grow) == 0
    assert index.live.metadata.model_name == index.models[1]


def test_a_source_that_joins_the_index_during_the_build_is_in_the_new_collection(index: Index) -> None:
    world = index.world
    other = world.directory / "pictures"
    fill(other, ["x.jpg", "y.jpg"], first_seed=60)

    def join(number: int) -> None:
        if number == 1:
            world.sync(source=str(other))

    assert index.reindex(meanwhile=join) == 0
    assert len(world.points) == 14
    assert len(index.live.metadata.sources) == 2


def test_captions_and_patterns_are_read_again_as_they_were_recorded(index: Index) -> None:
    world = index.world
    (world.bucket / "captions.json").write_text(json.dumps({name: f"picture {name}" for name in NAMES[:4]}))
    world.sync("--captions", f"{world.source}/captions.json")
    fill(world.bucket, ["b/x.jpg", "b/y.png"], first_seed=70)
    world.sync("--include", "*.png", source=f"{world.source}/b")
    assert index.reindex() == 0
    assert world.points["03.jpg"].payload["caption"] == "picture 03.jpg"
    sources = {each["source"]: each for each in index.live.metadata.sources}
    assert sources[world.source]["captions"].endswith("captions.json")
    assert sources[f"{world.source}/b"]["include"] == ["*.png"]


def test_what_was_taken_down_stays_out_of_the_new_collection(index: Index) -> None:
    def take_down(number: int) -> None:
        if number == 2:
            index.store.take_down("images", {point_id(f"{index.world.source}/02.jpg"): ""})

    index.store.take_down("images", {point_id(f"{index.world.source}/01.jpg"): ""})
    assert index.reindex(meanwhile=take_down) == 0
    assert set(index.world.points) == set(NAMES) - {"01.jpg", "02.jpg"}


def test_given_sources_take_the_place_of_the_recorded_ones(index: Index, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", NAMES, first_seed=80)
    assert index.reindex("--source", str(tmp_path / "elsewhere")) == 0
    assert [each["source"] for each in index.live.metadata.sources] == [(tmp_path / "elsewhere").as_uri()]
    assert len(index.world.points) == 12


# -- What is refused ------------------------------------------------------------------------------------------------


def test_without_an_index_there_is_nothing_to_change(index: Index) -> None:
    with pytest.raises(ConfigurationError, match=r"jobs/index\.py"):
        index.reindex("--index", "nothing")


def test_an_index_made_with_a_limit_is_refused(index: Index) -> None:
    index.world.index, index.world.model = "partial", index.models[0]
    index.world.sync("--limit", "3")
    with pytest.raises(ConfigurationError, match="--limit"):
        index.reindex("--index", "partial")
    assert len(index.store.collections.all("partial")) == 1


def test_a_source_that_is_gone_ends_the_run_before_anything_is_built(index: Index) -> None:
    for path in index.world.bucket.iterdir():
        path.unlink()
    index.world.bucket.rmdir()
    with pytest.raises(SourceError):
        index.reindex()
    assert index.states == {"first 1": "live"}
    assert index.summary == {}


def test_an_index_that_would_shrink_is_not_switched(index: Index) -> None:
    before = index.live
    for name in NAMES[:6]:
        (index.world.bucket / name).unlink()
    assert index.reindex() == 1
    assert index.failed_checks == ["points kept"]
    assert index.live == before
    with pytest.raises(PruneRefusedError):
        index.reindex("--model", index.models[0])
    assert index.reindex("--prune-max-ratio", "0.6") == 0
    assert len(index.world.points) == 6


def test_pictures_that_only_the_old_index_can_read_stop_the_switch(index: Index) -> None:
    index.world.index, index.world.model = "lenient", index.models[0]
    index.world.sync()
    # What the live index has under this ETag is, for the new one, no picture.
    (index.world.bucket / "03.jpg").write_bytes(b"broken")
    record = next(each for each in index.store.points.iterate(index.live) if each.payload["key"] == "03.jpg")
    with_etag = dict(record.payload) | {"etag": _etag(index, "03.jpg")}
    vector = index.store.points.vectors(index.live, [record.id])[record.id]
    index.store.points.upsert(index.live, PointBatch([record.id], [with_etag], image=vector[np.newaxis]), wait=True)
    assert index.reindex("--index", "lenient", "--max-failure-ratio", "0.5") == 1
    assert index.failed_checks == ["failed, but live"]


def test_too_many_failures_stop_the_switch(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bad.jpg", "worse.jpg"):
        (index.world.bucket / name).write_bytes(b"no picture")
    assert index.reindex() == 1
    assert index.failed_checks == ["failed"]
    assert "--rebuild" in index.summary["problem"]
    assert "failures │ 2 not_an_image" in told(capsys)
    assert index.reindex("--max-failure-ratio", "0.5") == 0


def test_a_bad_model_is_refused_by_the_golden_set(index: Index, tmp_path: Path) -> None:
    """The first model answers its own captions by construction; the other one is as good as chance."""
    golden = _golden_in_favour_of_the_first_model(index, tmp_path)
    before = index.live
    assert index.reindex("--golden", str(golden)) == 1
    assert "MRR" in index.failed_checks
    assert "recall@1" in index.summary["problem"]
    assert index.live == before
    assert index.states == {"first 1": "live", "other 2": "ready"}
    assert set(index.world.points) == set(NAMES)


def test_a_loss_of_quality_that_is_meant_can_be_allowed(index: Index, tmp_path: Path) -> None:
    golden = _golden_in_favour_of_the_first_model(index, tmp_path)
    assert index.reindex("--golden", str(golden), "--max-quality-loss", "1") == 0
    assert index.live.metadata.model_name == index.models[1]


def test_a_golden_set_of_another_world_is_told(index: Index, tmp_path: Path) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text(json.dumps({"text": "a cat", "relevant": ["s3://elsewhere/1.jpg"]}))
    with pytest.raises(ConfigurationError, match="none of which is in"):
        index.reindex("--golden", str(golden))
    assert index.states == {"first 1": "live"}


def test_without_a_golden_set_captions_ask_for_their_own_pictures(index: Index) -> None:
    world = index.world
    names = [f"{number:02}.jpg" for number in range(60)]
    fill(world.bucket, names)
    (world.bucket / "captions.json").write_text(json.dumps({name: f"number {name}" for name in names}))
    world.sync("--captions", f"{world.source}/captions.json")
    _put_pictures_where_their_captions_are(index)
    assert index.reindex() == 1
    assert {"recall@1", "MRR"} <= set(index.failed_checks)
    assert "60 captions" in next(each["note"] for each in index.summary["checks"] if each["name"] == "MRR")


def test_a_stored_vector_that_is_not_the_models_stops_the_switch(index: Index) -> None:
    def spoil(number: int) -> None:
        if number == 2:
            target = index.store.collections.all("images")[-1]
            record = next(index.store.points.iterate(target))
            vector = np.eye(1, 16, dtype=np.float32)
            index.store.points.upsert(target, PointBatch([record.id], [record.payload], image=vector), wait=True)

    assert index.reindex(meanwhile=spoil) == 1
    assert "fresh encoding" in index.failed_checks
    assert index.reindex() == 1, "nothing has changed about it"
    assert index.reindex("--rebuild") == 0
    assert index.states == {"first 1": "retired", "other 2": "live"}


# -- What would be done ----------------------------------------------------------------------------------------------


def test_a_dry_run_tells_in_numbers_what_it_would_do_and_writes_nothing(
    index: Index, qdrant: QdrantDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    (index.world.bucket / "03.jpg").write_bytes(picture(99, (64, 64)))
    (index.world.bucket / "05.jpg").unlink()
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    before = len(qdrant.requests)

    assert index.reindex("--dry-run") == 0
    said = told(capsys)
    assert "Would build a new collection for model" in said
    assert f"from {index.world.source}" in said
    assert "listed │ 12 would be indexed │ 12" in said

    assert index.reindex("--dry-run", "--model", index.models[0]) == 0
    said = told(capsys)
    assert "Would bring the live collection up to date" in said
    assert "listed │ 12 would be indexed │ 2 unchanged │ 10 would be pruned │ 1 of 12 points" in said

    reading = re.compile(r"GET /|POST /collections/[^/]+/points(/(scroll|count|query|query/batch))?$")
    asked = [f"{each.method} {each.path}" for each in qdrant.requests[before:]]
    assert [each for each in asked if not reading.match(each)] == []
    assert not list(index.world.directory.glob("reindex-*")), "no report either"


def test_a_dry_run_says_what_is_left_to_do_of_an_unfinished_build(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad.jpg", "worse.jpg"):
        (index.world.bucket / name).write_bytes(b"no picture")
    assert index.reindex() == 1
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    capsys.readouterr()
    assert index.reindex("--dry-run") == 0
    said = told(capsys)
    assert "Would go on with" in said
    assert "known failures of unchanged content │ 2 would be indexed │ 1 unchanged │ 12" in said


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to standard output, in one line, without the frames of tables."""
    return " ".join(re.sub(r"[┌─┬┐└┴┘]|^│|│$", "", capsys.readouterr().out, flags=re.MULTILINE).split())


# -- Means ----------------------------------------------------------------------------------------------------------


def _etag(index: Index, name: str) -> str:
    with Objects(index.world.reach.access) as objects:
        return objects.stat(f"{index.world.source}/{name}").etag


def _golden_in_favour_of_the_first_model(index: Index, directory: Path) -> Path:
    """Questions whose vectors, by the first model, are put where their pictures' vectors stand in the live index."""
    names = NAMES[:6]
    texts = [f"the picture {name}" for name in names]
    vectors = index.world.work("golden").encode_texts(locate(index.models[0]), texts)
    by_key = index.world.points
    records = [by_key[name] for name in names]
    batch = PointBatch([each.id for each in records], [each.payload for each in records], image=vectors)
    index.store.points.upsert(index.live, batch, wait=True)
    path = directory / "golden.jsonl"
    lines = [
        json.dumps({"text": text, "relevant": [f"{index.world.source}/{name}"]})
        for text, name in zip(texts, names, strict=True)
    ]
    path.write_text("\n".join(lines))
    return path


def _put_pictures_where_their_captions_are(index: Index) -> None:
    records = list(index.world.points.values())
    captions = index.store.points.vectors(index.live, [each.id for each in records], "caption")
    vectors = np.stack([captions[each.id] for each in records])
    batch = PointBatch(
        [each.id for each in records], [each.payload for each in records], image=vectors, caption=vectors
    )
    index.store.points.upsert(index.live, batch, wait=True)
