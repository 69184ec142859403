"""The phases of a re-index, over a real S3 endpoint, small models and a Qdrant double, without Ray."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.reindex import main
from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import encoded_image, fill
from viewfinder.errors import ConfigurationError, SourceError
from viewfinder.indexing.prune import remove_source
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.upgrade_lock import read_holder
from viewfinder.reindexing.workflow import wanted_model
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

# -- Change of model -------------------------------------------------------------------------------------------------


def test_another_model_gets_a_collection_of_its_own_which_is_promoted(index: Index) -> None:
    before = index.live
    assert index.reindex() == 0
    assert index.live.name != before.name
    assert index.live.metadata.fingerprint == locate(index.models[1]).fingerprint
    assert index.live.metadata.dimension == 16
    assert set(index.world.points) == set(NAMES)
    assert index.states == {"first 1": "retired", "other 2": "live"}
    assert index.summary["state"] == "done"
    assert index.summary["retired"] == before.name
    assert index.summary["counts"] == {
        "listed": 12,
        "unchanged": 0,
        "indexed": 12,
        "skipped": 0,
        "failed": 0,
        "pruned": 0,
    }
    assert index.failed_checks == []
    assert set(index.summary["phases"]) == {"preflight", "build", "verify", "promote", "catch up", "clean up"}
    values = {each["name"]: each["value"] for each in index.summary["checks"]}
    assert values["points"] == 12
    assert values["fresh encoding"] == pytest.approx(1.0, abs=1e-3)
    assert values["self-retrieval"] == 1
    assert values["approximate/exact recall@10"] == 1
    assert index.indexers[0].checked == [index.world.source]
    assert read_holder(index.store.control("images")) is None


def test_graphs_are_built_when_everything_is_loaded_and_before_the_promotion(
    index: Index, qdrant: QdrantDouble
) -> None:
    assert index.reindex() == 0
    name = index.live.name
    bodies = [
        (each.path, each.body or {}) for each in qdrant.requests if each.method != "POST" or "aliases" in each.path
    ]
    (made,) = [body for path, body in bodies if path == f"/collections/{name}" and "vectors" in body]
    assert made["optimizers_config"]["indexing_threshold"] == 0
    optimized = [at for at, (path, body) in enumerate(bodies) if path == f"/collections/{name}" and _threshold(body)]
    loaded = [at for at, (path, _) in enumerate(bodies) if path == f"/collections/{name}/points"]
    promoted = [at for at, (path, body) in enumerate(bodies) if path == "/collections/aliases" and name in str(body)]
    assert len(optimized) == 1
    assert max(loaded) < optimized[0] < min(promoted)


def _threshold(body: dict[str, Any]) -> int:
    return int((body.get("optimizers_config") or {}).get("indexing_threshold") or 0)


def test_every_stored_vector_comes_from_the_new_model(index: Index) -> None:
    index.reindex()
    records = list(index.world.points.values())
    fresh = index.indexers[0].encode_images(locate(index.models[1]), records)
    stored = index.store.points.vectors(index.live, [each.id for each in records])
    assert fresh.keys() == stored.keys()
    assert all(fresh[id_] @ stored[id_] > 0.999 for id_ in fresh)


def test_with_the_same_model_the_live_collection_is_updated(index: Index) -> None:
    before = index.live
    (index.world.bucket / "03.jpg").write_bytes(encoded_image(99, (64, 64)))
    (index.world.bucket / "05.jpg").unlink()
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    assert index.reindex("--model", index.models[0]) == 0
    assert index.live.name == before.name
    assert index.summary["counts"] == {
        "listed": 12,
        "unchanged": 10,
        "indexed": 2,
        "skipped": 0,
        "failed": 0,
        "pruned": 1,
    }
    assert set(index.world.points) == {*NAMES, "new.jpg"} - {"05.jpg"}
    assert index.world.points["03.jpg"].payload["width"] == 64
    assert index.reindex("--model", index.models[0]) == 0
    assert index.summary["counts"] == {
        "listed": 12,
        "unchanged": 12,
        "indexed": 0,
        "skipped": 0,
        "failed": 0,
        "pruned": 0,
    }


@pytest.mark.parametrize(
    ("option", "setting", "wanted"),
    [(None, None, "live"), (None, "set", "set"), ("given", None, "given"), ("given", "set", "given")],
)
def test_without_an_option_or_a_setting_the_live_model_stays(
    option: str | None, setting: str | None, wanted: str
) -> None:
    # Regression: `viewfinder reindex` changed an index of another model to the default of VIEWFINDER_MODEL.
    assert wanted_model(ReindexOptions(model=option), Settings.load({}, model=setting), "live") == wanted


def test_a_directory_has_one_name_in_every_spelling(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: a relative directory was recorded as it was given.
    other = Path(index.models[1])
    monkeypatch.chdir(other.parent)
    monkeypatch.setenv("VIEWFINDER_MODEL", other.name)
    assert index.reindex("--model", f"./{other.name}") == 0
    assert index.live.metadata.model_name == str(other)
    assert "or the next run without --model" not in caplog.text
    monkeypatch.chdir("/")
    monkeypatch.setenv("VIEWFINDER_MODEL", str(other))
    assert index.reindex() == 0
    assert index.summary["counts"]["unchanged"] == 12


def test_when_model_changed_ignores_changed_objects(index: Index) -> None:
    fill(index.world.bucket, ["new.jpg"], first_seed=50)
    assert index.reindex("--when-model-changed", "--model", index.models[0]) == 0
    assert index.indexers[0].results == []
    assert index.reindex("--when-model-changed") == 0
    assert index.live.metadata.model_name == index.models[1]


def test_a_scheduled_run_that_finds_the_wanted_model_only_reads(
    index: Index, qdrant: QdrantDouble, tmp_path: Path
) -> None:
    before = len(qdrant.requests)
    assert main(["--when-model-changed", "--model", index.models[0]]) == 0
    requests = {f"{each.method} {each.path}" for each in qdrant.requests[before:]}
    reads = {"GET /", "GET /aliases", "GET /collections", f"GET /collections/{index.live.name}"}
    assert requests <= {*reads, "POST /collections/images__control/points/scroll"}
    assert not (tmp_path / "data" / "runs").exists(), "no report is written every hour"


def test_changed_weights_under_the_same_name_are_another_model(
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


def test_objects_that_change_during_the_build_are_current_after_the_promotion(index: Index) -> None:
    bucket = index.world.bucket

    def change(number: int) -> None:
        if number == 1:
            (bucket / "03.jpg").write_bytes(encoded_image(99, (64, 64)))
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


def test_objects_added_during_the_promotion_are_indexed_after_it(index: Index) -> None:
    seen: list[str] = []

    def change(number: int) -> None:
        # After the two rounds of the build comes a run over the collection that is live by now.
        if index.live.metadata.model_name == index.models[1] and not seen:
            seen.append(index.live.name)
            fill(index.world.bucket, ["last.jpg"], first_seed=52)

    assert index.reindex(meanwhile=change) == 0
    assert seen, "there was a run after the promotion"
    assert index.reindex() == 0
    assert "last.jpg" in index.world.points


def test_a_bucket_that_keeps_changing_is_promoted_after_the_last_round(index: Index) -> None:
    def grow(number: int) -> None:
        fill(index.world.bucket, [f"more-{number}.jpg"], first_seed=100 + number)

    assert index.reindex(meanwhile=grow) == 0
    assert index.live.metadata.model_name == index.models[1]


def test_a_source_added_during_the_build_is_in_the_new_collection(index: Index) -> None:
    world = index.world
    other = world.directory / "images"
    fill(other, ["x.jpg", "y.jpg"], first_seed=60)

    def join(number: int) -> None:
        if number == 1:
            world.sync(source=str(other))

    assert index.reindex(meanwhile=join) == 0
    assert len(world.points) == 14
    assert len(index.live.recorded.sources) == 2


def test_recorded_captions_and_patterns_are_used_again(index: Index) -> None:
    world = index.world
    (world.bucket / "captions.json").write_text(json.dumps({name: f"image {name}" for name in NAMES[:4]}))
    world.sync("--captions", f"{world.source}/captions.json")
    fill(world.bucket, ["b/x.jpg", "b/y.png"], first_seed=70)
    world.sync("--include", "*.png", source=f"{world.source}/b")
    assert index.reindex() == 0
    assert world.points["03.jpg"].payload["caption"] == "image 03.jpg"
    recorded = index.live.recorded
    assert recorded.captions_of(world.source) == [f"{world.source}/captions.json"]
    assert recorded.sources[f"{world.source}/b"].include == ("*.png",)


def test_images_taken_down_stay_out_of_the_new_collection(index: Index) -> None:
    def take_down(number: int) -> None:
        if number == 2:
            index.store.take_down("images", {point_id(f"{index.world.source}/02.jpg"): ""})

    index.store.take_down("images", {point_id(f"{index.world.source}/01.jpg"): ""})
    assert index.reindex(meanwhile=take_down) == 0
    assert set(index.world.points) == set(NAMES) - {"01.jpg", "02.jpg"}


def test_given_sources_replace_the_recorded_ones(index: Index, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", NAMES, first_seed=80)
    assert index.reindex("--source", str(tmp_path / "elsewhere")) == 0
    assert list(index.live.recorded.sources) == [(tmp_path / "elsewhere").as_uri()]
    assert len(index.world.points) == 12


# -- Refusals -------------------------------------------------------------------------------------------------------


def test_a_missing_index_is_refused(index: Index) -> None:
    with pytest.raises(ConfigurationError, match="viewfinder index"):
        index.reindex("--index", "nothing")


def test_an_index_made_with_a_limit_is_refused(index: Index) -> None:
    index.world.index, index.world.model = "partial", index.models[0]
    index.world.sync("--max-objects", "3")
    with pytest.raises(ConfigurationError, match="--max-objects"):
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


def test_an_index_that_would_shrink_is_refused(index: Index) -> None:
    before = index.live
    for name in NAMES[:6]:
        (index.world.bucket / name).unlink()
    assert index.reindex() == 1
    assert index.failed_checks == ["points kept"]
    assert index.live == before
    (index.world.bucket / "new.jpg").write_bytes(encoded_image(60))
    assert index.reindex("--model", index.models[0]) == 1
    assert "--prune-max-ratio" in index.summary["problem"]
    assert len(index.world.points) == 13, "what is new is indexed nevertheless"
    (index.world.bucket / "new.jpg").unlink()
    assert index.reindex("--prune-max-ratio", "0.6") == 0
    assert len(index.world.points) == 6


def test_a_model_change_waits_for_a_source_that_is_gone(index: Index) -> None:
    fill(index.world.bucket, ["a/0.jpg", "b/1.jpg"])
    for source in ("a", "b"):
        index.world.sync(source=f"{index.world.source}/{source}")
    (index.world.bucket / "a" / "0.jpg").rename(index.world.directory / "away.jpg")
    (index.world.bucket / "a").rmdir()
    before = index.live.name
    assert index.reindex("--model", index.models[0]) == 1
    assert f"'{index.world.source}/a' is left out" in index.summary["problem"]
    assert index.reindex() == 1
    assert index.failed_checks == ["sources gone"]
    assert index.live.name == before
    remove_source(index.store, index.live, f"{index.world.source}/a")
    assert index.reindex() == 0
    assert list(index.live.recorded.sources) == [index.world.source, f"{index.world.source}/b"]


def test_all_captions_files_of_a_source_are_read_and_none_is_dropped_unasked(index: Index) -> None:
    """Only the last file was recorded, and the run it triggers pruned: five captions became one."""
    bucket, source = index.world.bucket, index.world.source
    january = {name: f"january {name}" for name in NAMES[:4]}
    (bucket / "january.json").write_text(json.dumps(january))
    (bucket / "february.json").write_text(json.dumps({NAMES[0]: "february"}))
    for month in ("january", "february"):
        index.world.sync("--captions", f"{source}/{month}.json")
    expected = {**dict.fromkeys(NAMES), **january, NAMES[0]: "february"}

    def captions() -> dict[str, str | None]:
        return {name: point.payload.get("caption") for name, point in index.world.points.items()}

    assert captions() == expected
    assert index.reindex("--model", index.models[0]) == 0
    assert captions() == expected
    (bucket / "january.json").write_text(json.dumps({NAMES[1]: "changed"}))  # rows that disappear
    expected[NAMES[1]] = "changed"
    assert index.reindex("--model", index.models[0]) == 0
    assert captions() == expected
    assert index.reindex() == 0  # another model
    assert captions() == expected
    assert index.live.recorded.captions_of(source) == [f"{source}/january.json", f"{source}/february.json"]
    (bucket / "february.json").unlink()
    assert index.reindex("--rebuild", "--model", index.models[0]) == 1
    assert "february.json" in index.summary["problem"]
    assert captions() == expected
    (bucket / "february.json").write_text(json.dumps({NAMES[0]: "february"}))
    assert index.reindex("--model", index.models[0], "--prune-captions", "--prune-captions-max-ratio", "0.5") == 0
    assert captions() == {**dict.fromkeys(NAMES), NAMES[0]: "february", NAMES[1]: "changed"}


def test_captions_of_a_file_that_is_gone_keep_their_fields(index: Index) -> None:
    bucket, source = index.world.bucket, index.world.source
    (bucket / "captions.jsonl").write_text(json.dumps({"key": NAMES[0], "caption": "zero", "year": 2020}))
    index.world.sync("--captions", f"{source}/captions.jsonl")
    (bucket / "captions.jsonl").unlink()
    assert index.reindex() == 1  # switched, and says what was left out
    assert index.live.metadata.model_name == index.models[1]
    assert index.live.recorded.fields == {"meta.year": "integer"}
    point = index.world.points[NAMES[0]].payload
    assert (point["caption"], point["meta"]) == ("zero", {"year": 2020})


@pytest.mark.parametrize("flags", [(), ("--rebuild", "--model", "0")], ids=["model change", "rebuild"])
def test_fields_that_no_file_and_no_image_has_any_more_free_their_places(index: Index, flags: tuple[str, ...]) -> None:
    """Each export with other columns used up places for good, until no field of a new one could be filtered."""
    bucket, source = index.world.bucket, index.world.source
    for number, records in enumerate(({"key": NAMES[0], "old": 1, "same": 1}, {"key": NAMES[1], "kept": True})):
        (bucket / f"{number}.jsonl").write_text(json.dumps({"caption": "text", **records}))
        index.world.sync("--captions", f"{source}/{number}.jsonl")
    (bucket / "0.jsonl").write_text(json.dumps({"key": NAMES[0], "caption": "text", "same": 2, "new": "x"}))
    index.world.sync("--captions", f"{source}/0.jsonl")
    assert set(index.live.recorded.fields) == {"meta.old", "meta.same", "meta.kept", "meta.new"}
    (bucket / "1.jsonl").write_text(json.dumps({"key": NAMES[2], "caption": "text"}))  # its image keeps the field
    assert index.reindex(*(index.models[0] if each == "0" else each for each in flags)) == 0
    assert index.live.recorded.fields == {"meta.same": "integer", "meta.kept": "bool", "meta.new": "keyword"}


def test_overlapping_sources_with_captions_of_their_own_need_one_update(index: Index) -> None:
    """Each source was read in a run of its own, and each run replaced the other's captions."""
    bucket, source = index.world.bucket, index.world.source
    fill(bucket, ["a/0.jpg"])
    for name, text in (("one.json", "of all"), ("two.json", "of a")):
        (bucket / name).write_text(json.dumps({"a/0.jpg": text}))
    index.world.sync("--captions", f"{source}/one.json")
    index.world.sync("--captions", f"{source}/two.json", source=f"{source}/a")
    assert index.reindex() == 0
    assert index.world.points["a/0.jpg"].payload["caption"] == "of a"
    assert index.reindex() == 0
    assert index.summary["counts"]["indexed"] == 0


def test_a_source_that_shrinks_at_the_switch_is_not_pruned_beyond_the_bound(index: Index) -> None:
    """The run after the switch pruned the live collection without a bound."""

    def vanish(number: int) -> None:
        if number == 2:  # two rounds build; the third run follows the switch
            for name in NAMES[1:]:
                (index.world.bucket / name).unlink()

    assert index.reindex(meanwhile=vanish) == 1
    assert "--prune-max-ratio" in index.summary["problem"]
    assert index.summary["outcome"].startswith("switched from")
    assert set(index.world.points) == set(NAMES)
    assert index.states == {"first 1": "retired", "other 2": "live"}
