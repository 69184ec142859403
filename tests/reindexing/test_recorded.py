"""Sources and captions files that are recorded while, and after, a model changes; and the report of captions."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.fixtures.reindexing import Index
from tests.indexing.sample_images import encoded_image, write_captions
from tests.reindexing.test_promote import serve
from viewfinder.indexing.run import Indexer
from viewfinder.store.recorded import SourceRecord

pytestmark = pytest.mark.slow


def _captions(index: Index) -> dict[str, Any]:
    return {
        name: point.payload["caption"] for name, point in index.world.points.items() if point.payload.get("caption")
    }


def test_what_jobs_record_right_after_the_switch_stays(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catch-up recorded the files of the old collection again, as the last ones, and its patterns."""
    world = index.world
    files = [write_captions(world, f"{name}.json", _00=name) for name in "abc"]
    for uri in files[:2]:
        world.sync("--captions", uri)

    def record() -> dict[str, bool]:
        """A job after the switch, when the service is asked."""
        records = index.store.collections.records(index.live)
        records.record_captions(world.source, files[2])
        records.record_sources([SourceRecord(world.source, exclude=("*.png",))])
        return {"is_searched": True}

    with serve(record) as url:
        monkeypatch.setenv("VIEWFINDER_SERVER", url)
        assert index.reindex() == 0
    assert index.live.metadata.model_name == index.models[1]
    assert index.live.recorded.captions_of(world.source) == files
    assert index.live.recorded.sources[world.source].exclude == ("*.png",)
    assert _captions(index) == {"00.jpg": "c"}


def test_a_job_of_the_old_collection_adds_what_the_new_one_lacks(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    world, before = index.world, index.live
    late = write_captions(world, "late.json", _00="late")

    def record() -> dict[str, bool]:
        index.store.collections.records(before).record_captions(world.source, late)
        return {"is_searched": True}

    with serve(record) as url:
        monkeypatch.setenv("VIEWFINDER_SERVER", url)
        assert index.reindex() == 0
    assert index.live.recorded.captions_of(world.source) == [late]
    assert _captions(index) == {"00.jpg": "late"}


def test_pruned_captions_stay_pruned_and_are_reported(index: Index) -> None:
    """The files that were left out stayed recorded, and the next run read them again."""
    world = index.world
    old, new = write_captions(world, "a.json", _00="zero", _01="one"), write_captions(world, "b.json", _00="zero")
    world.sync("--captions", old)
    model = ("--model", index.models[0])
    flags = ("--captions", new, "--prune-captions", "--prune-captions-max-ratio", "0.5")
    assert index.reindex(*model, *flags) == 0
    assert index.summary["captions"] == {"pruned": 1}
    assert index.live.recorded.captions_of(world.source) == [new]
    assert index.reindex(*model) == 0
    assert _captions(index) == {"00.jpg": "zero"}


@pytest.mark.parametrize("given", [(), ("--source", "{source}")], ids=["all sources", "a source"])
def test_captions_that_a_job_writes_during_the_preflight_stay(
    index: Index, monkeypatch: pytest.MonkeyPatch, given: Sequence[str]
) -> None:
    """Regression: the re-index had read the records before, and found its texts in no file."""
    world = index.world
    files = [write_captions(world, f"{name}.json", **{f"_0{number}": name}) for number, name in enumerate("ab")]
    world.sync("--captions", files[0])
    check = Indexer.check

    def after_a_job(self: Indexer, sources: Sequence[str]) -> None:
        check(self, sources)
        world.sync("--captions", files[1])

    monkeypatch.setattr(Indexer, "check", after_a_job)
    flags = [each.format(source=world.source) for each in given]
    prune = ("--prune-captions", "--prune-captions-max-ratio", "1")
    assert index.reindex("--model", index.models[0], *flags, *prune) == 0
    assert index.summary["captions"] == {"pruned": 0}
    assert _captions(index) == {"00.jpg": "a", "01.jpg": "b"}
    assert index.live.recorded.captions_of(world.source) == files


def test_a_refused_prune_of_captions_forgets_no_file(index: Index) -> None:
    world = index.world
    old, new = write_captions(world, "a.json", _00="zero", _01="one"), write_captions(world, "b.json", _00="zero")
    world.sync("--captions", old)
    assert index.reindex("--model", index.models[0], "--captions", new, "--prune-captions") == 1
    assert index.live.recorded.captions_of(world.source) == [old, new]


def test_the_report_has_the_images_whose_end_is_missing(index: Index) -> None:
    (index.world.bucket / "cut.jpg").write_bytes(encoded_image(99, (64, 640))[:-40])
    assert index.reindex() == 0
    assert index.summary["warnings"] == {"truncated_tail": 1}
    assert index.summary["warned"] == {"truncated_tail": [f"{index.world.source}/cut.jpg"]}
