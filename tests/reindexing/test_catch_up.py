"""A model change that ends between its switch and its last listing: the next re-index completes it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.options import index_options
from tests.fixtures.reindexing import NAMES, Index
from tests.indexing.sample_images import fill, write_captions
from tests.reindexing.test_promote import serve
from viewfinder.errors import SourceError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing import status
from viewfinder.reindexing.options import ReindexOptions
from viewfinder.reindexing.workflow import has_wanted_model
from viewfinder.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def late(index: Index) -> Path:
    """A source that a job adds while the model changes."""
    directory = index.world.directory / "late"
    fill(directory, ["x.jpg", "y.jpg"], first_seed=60)
    return directory


def names(index: Index) -> set[str]:
    return {Path(key).name for key in index.world.points}


def job_during_the_build(index: Index, late: Path | None = None) -> Callable[[int], None]:
    """Index `late` into the old collection after its sources were read, and fail to list anything after the switch."""

    def meanwhile(number: int) -> None:
        if index.live.metadata.model_name == index.models[1]:
            raise SourceError("the server gives the same token again")
        if number == 2 and late is not None:  # the round that finds no changes
            index.world.sync("--captions", write_captions(index.world, "late.json", _00="late"), source=str(late))

    return meanwhile


@pytest.mark.parametrize("flags", [(), ("--when-model-changed",)], ids=["nightly", "hourly"])
def test_a_source_that_a_job_has_added_is_not_lost_when_the_listing_after_the_switch_fails(
    index: Index, late: Path, flags: tuple[str, ...]
) -> None:
    """No run ever read it again: only the old collection had recorded it."""
    first = index.live
    assert index.reindex(meanwhile=job_during_the_build(index, late)) == 1
    assert index.result is not None
    assert index.result.outcome == f"switched from {first.name}"
    assert "same token" in str(index.result.problem)
    assert index.live.metadata.behind == first.name
    assert f"from {first.name} to {index.live.name} did not get to its end" in str(
        status.read(index.store, "images").incomplete
    )
    assert index.reindex(*flags) == 0
    assert status.read(index.store, "images").incomplete is None
    assert names(index) == {*NAMES, "x.jpg", "y.jpg"}
    assert len(index.live.recorded.captions_of(str(late))) == 1
    assert index.live.metadata.behind == ""


def test_captions_of_no_file_are_taken_over_by_the_next_run(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come with requests to the service, and the old collection alone had them."""
    world, first = index.world, index.live
    uri = write_captions(world, "request.json", _00="on request")

    def request() -> dict[str, bool]:
        """A job of the old collection that ends right after the switch."""
        options = index_options(["--source", world.source, "--captions", uri])
        world.indexer("20260101T000009-test").sync(options, first, locate(index.models[0]))
        index.store.collections.records(first).remove_captions(world.source, uri)
        return {"is_searched": True}

    with serve(request) as url:
        monkeypatch.setenv("VIEWFINDER_SERVER", url)
        assert index.reindex(meanwhile=job_during_the_build(index)) == 1
    assert not world.points["00.jpg"].payload.get("caption")
    assert index.reindex() == 0
    assert world.points["00.jpg"].payload["caption"] == "on request"


def test_an_hourly_run_does_not_pass_over_a_change_that_is_not_complete(index: Index, late: Path) -> None:
    settings = Settings.load(index=index.world.index)
    index.reindex(meanwhile=job_during_the_build(index, late))
    options = ReindexOptions(when_model_changed=True)
    assert not has_wanted_model(options, settings, index.store)
    assert index.reindex() == 0
    assert has_wanted_model(options, settings, index.store)


def test_another_model_change_does_not_forget_what_the_first_one_has_not_read(index: Index, late: Path) -> None:
    index.reindex(meanwhile=job_during_the_build(index, late))
    assert index.reindex("--model", index.models[0], "--rebuild", "--keep", "0") == 0
    assert names(index) == {*NAMES, "x.jpg", "y.jpg"}
