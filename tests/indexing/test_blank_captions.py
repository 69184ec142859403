"""Records of captions files without a text: they keep the text that an image has, until a prune of captions."""

import json
import unicodedata
from typing import Any

import numpy as np
import pytest

from tests.fixtures.indexing import World
from tests.fixtures.options import index_options
from tests.indexing.sample_images import encoded_image, fill, write_captions
from viewfinder.indexing.captions_prune import CaptionsPrune
from viewfinder.indexing.prune import PrunePlan, PruneRefusedError
from viewfinder.models.checkpoint import locate

pytestmark = pytest.mark.slow

NAMES = ["00.jpg", "01.jpg", "02.jpg"]
BLANK = "key,caption\n00.jpg,\n01.jpg,\n02.jpg,\n"
TAGS = "key,caption,tags,year\n00.jpg,,x;y,2020\n01.jpg,,x,\n02.jpg,,,2021\n"


@pytest.fixture
def captioned(world: World) -> World:
    """A world whose three images have captions."""
    fill(world.bucket, NAMES)
    world.sync("--captions", write_captions(world, "texts.json", _00="zero", _01="one", _02="two"))
    return world


def write(world: World, name: str, text: str) -> str:
    (world.bucket / name).write_text(text)
    return f"{world.source}/{name}"


def values(world: World, field: str) -> list[Any]:
    return [world.points[name].payload.get(field) for name in NAMES]


def have_vectors(world: World) -> list[bool]:
    ids = [world.points[name].id for name in NAMES]
    states = world.store.points.states(world.collection, ids)
    return [states[each].has_caption for each in ids]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("blank.csv", BLANK),
        ("null.json", json.dumps(dict.fromkeys(NAMES))),
        ("tags.csv", TAGS),
        ("missing.csv", "key,caption,tags,year\n00.jpg,\\N,NULL,2020\n01.jpg,NaN,NaN,NaN\n02.jpg,None,,2021\n"),
    ],
)
def test_records_without_a_text_erase_no_caption(captioned: World, name: str, text: str) -> None:
    captioned.sync("--captions", write(captioned, name, text))
    assert values(captioned, "caption") == ["zero", "one", "two"]
    assert have_vectors(captioned) == [True] * 3


def test_tags_and_fields_of_a_record_without_a_text_are_added_once(captioned: World) -> None:
    tags = write(captioned, "tags.csv", TAGS)
    assert captioned.sync("--captions", tags)["indexed"] == 3
    assert values(captioned, "tags") == [["x", "y"], ["x"], []]
    assert values(captioned, "meta") == [{"year": 2020}, {}, {"year": 2021}]
    assert captioned.sync("--captions", tags)["indexed"] == 0


def test_a_text_of_an_earlier_file_of_the_run_stays(world: World) -> None:
    fill(world.bucket, NAMES)
    texts = write_captions(world, "texts.json", _00="zero", _01="one", _02="two")
    tags = write(world, "tags.csv", TAGS)
    world.sync("--captions", texts, "--captions", tags)
    assert values(world, "caption") == ["zero", "one", "two"]
    assert values(world, "tags") == [["x", "y"], ["x"], []]


def test_a_new_content_keeps_the_text_that_its_record_does_not_have(captioned: World) -> None:
    (captioned.bucket / "00.jpg").write_bytes(encoded_image(9, (64, 64)))
    captioned.sync("--captions", write(captioned, "tags.csv", TAGS))
    assert values(captioned, "caption") == ["zero", "one", "two"]


@pytest.mark.parametrize(("text", "tags"), [(BLANK, [None] * 3), (TAGS, [["x", "y"], ["x"], None])])
def test_a_prune_of_captions_removes_texts_that_are_blank_within_its_ratio(
    captioned: World, text: str, tags: list[Any]
) -> None:
    flags = ("--captions", write(captioned, "blank.csv", text), "--prune-captions")
    with pytest.raises(PruneRefusedError, match="3 of the 3 captions"):
        captioned.sync(*flags)
    assert values(captioned, "caption") == ["zero", "one", "two"]
    captioned.sync(*flags, "--prune-captions-max-ratio", "1")
    assert [each or None for each in values(captioned, "caption")] == [None] * 3
    assert [each or None for each in values(captioned, "tags")] == tags
    assert have_vectors(captioned) == [False] * 3


def test_a_prune_of_captions_spares_texts_of_images_that_were_in_another_source(world: World) -> None:
    """Regression: its ratio counts the captions of its own sources; all others were removed, uncounted."""
    names = [f"a/{name}" for name in NAMES]
    fill(world.bucket, [*names, "b/3.jpg"])
    texts = {name: f"text of {name}" for name in names}
    given = write(world, "texts.json", json.dumps(texts))
    world.sync("--captions", given, source=f"{world.source}/a")
    (world.bucket / "a" / "02.jpg").write_bytes(encoded_image(9, (64, 64)))
    rows = [f"{name},,x" for name in [*names, "b/3.jpg"]]
    blank = ("--captions", write(world, "tags.csv", "\n".join(["key,caption,tags", *rows])))
    world.sync(*blank, "--prune-captions")
    assert {name: world.points[name].payload["caption"] for name in names} == texts
    with pytest.raises(PruneRefusedError, match="3 of the 3 captions"):  # they belong to this source now
        world.sync(*blank, "--prune-captions")
    world.sync(*blank, "--prune-captions", "--prune-captions-max-ratio", "1")
    assert not any(world.points[name].payload.get("caption") for name in names)


def test_a_prune_of_captions_spares_texts_that_another_run_has_written_since(world: World) -> None:
    """Regression: they were removed, uncounted, if the captions files of the run had no text for the image."""
    fill(world.bucket, NAMES)
    world.sync("--captions", write_captions(world, "texts.json", _00="zero", _02="two"))
    late = write_captions(world, "late.json", _00="changed", _01="late")
    flags = ("--captions", write(world, "tags.csv", TAGS), "--prune-captions", "--prune-captions-max-ratio", "1")
    options = index_options(["--source", world.source, *flags])
    assert world.indexer("plan").plan(options, world.collection).prune == PrunePlan(0, 0, 0, captions=2)

    def describe(number: int) -> None:
        world.sync("--captions", late)

    result = world.indexer("20250101T000000-early", describe).sync(options, world.collection, locate(world.model))
    assert result.pruned_captions == 1
    assert values(world, "caption") == ["changed", "late", None]
    assert values(world, "tags") == [["x", "y"], ["x"], []]
    assert have_vectors(world) == [True, True, False]


def test_a_captions_file_that_another_run_records_meanwhile_stays_recorded(world: World) -> None:
    """Regression: its captions stayed, but no re-index read them again."""
    fill(world.bucket, NAMES)
    given = write_captions(world, "texts.json", _00="zero")
    world.sync("--captions", given)
    late = write_captions(world, "late.json", _01="late")
    flags = ("--captions", given, "--prune-captions", "--prune-captions-max-ratio", "1")
    options = index_options(["--source", world.source, *flags])
    for text in ("late", "later"):  # recorded first, and recorded again
        write_captions(world, "late.json", _01=text)
        with world.indexer("20250101T000000-early").listed(options, world.collection) as listed:
            world.sync("--captions", late)
            world.indexer("20250101T000000-early").sync(options, world.collection, locate(world.model), listed)
        assert values(world, "caption") == ["zero", text, None]
        assert set(world.collection.recorded.captions_of(world.source)) == {given, late}


def test_a_prune_of_captions_spares_the_same_text_with_other_tags_of_another_run(
    captioned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--captions", write(captioned, "tags.csv", TAGS), "--prune-captions", "--prune-captions-max-ratio", "1")
    options = index_options(["--source", captioned.source, *flags])
    late = write(captioned, "late.csv", "key,caption,tags\n00.jpg,zero,new\n")
    carry_out = CaptionsPrune.carry_out

    def after_another_run(self: CaptionsPrune, run_id: str) -> int:
        captioned.sync("--captions", late)
        return carry_out(self, run_id)

    monkeypatch.setattr(CaptionsPrune, "carry_out", after_another_run)
    captioned.indexer("20250101T000000-run").sync(options, captioned.collection, locate(captioned.model))
    assert values(captioned, "caption") == ["zero", None, None]
    assert values(captioned, "tags") == [["new"], ["x"], []]


@pytest.mark.parametrize(
    "record",
    [
        {"tags": [unicodedata.normalize("NFD", "café")]},
        {"place": unicodedata.normalize("NFD", "Zürich")},
        {"score": 0.1 + 0.2, "float32": float(np.float32(0.7)), "large": 2**70},
        {"nested": {"a": {"b": [1, 2.5, "é"]}, "e": {}, "z": []}},
    ],
    ids=["tag", "text", "numbers", "nested"],
)
def test_a_run_that_prunes_captions_again_changes_nothing(captioned: World, record: dict[str, Any]) -> None:
    """Stores change the form of texts and the last digits of numbers, so the hash is never that of what they have."""
    rows = {name: {"caption": None, **record} for name in NAMES}
    given = write(captioned, "rows.json", json.dumps(rows, ensure_ascii=False))
    flags = ("--captions", given, "--prune-captions", "--prune-captions-max-ratio", "1")
    captioned.sync(*flags)
    assert values(captioned, "caption") == [None] * 3
    assert captioned.sync(*flags)["indexed"] == 0


def test_a_text_that_an_image_keeps_is_not_encoded_again(captioned: World) -> None:
    (captioned.bucket / "00.jpg").write_bytes(encoded_image(9, (64, 64)))
    options = index_options(["--source", captioned.source, "--captions", write(captioned, "tags.csv", TAGS)])
    result = captioned.indexer("20250101T000000-run").sync(options, captioned.collection, locate(captioned.model))
    assert (result.outcome.tally.indexed, result.outcome.tally.captions) == (3, 0)
    assert values(captioned, "caption") == ["zero", "one", "two"]
    assert have_vectors(captioned) == [True] * 3


def test_a_plan_counts_the_texts_that_the_run_removes(captioned: World) -> None:
    """Regression: the text of an image that could not be read was counted, and stayed."""
    (captioned.bucket / "00.jpg").write_bytes(encoded_image(9, (64, 64)))
    flags = ("--captions", write(captioned, "tags.csv", TAGS), "--prune-captions", "--prune-captions-max-ratio", "1")
    options = index_options(["--source", captioned.source, *flags])
    assert captioned.indexer("plan").plan(options, captioned.collection).prune == PrunePlan(0, 0, 0, captions=3)
    indexer = captioned.indexer("20250101T000000-run", lambda number: (captioned.bucket / "00.jpg").unlink())
    result = indexer.sync(options, captioned.collection, locate(captioned.model))
    assert result.outcome.tally.failed == 1
    assert result.pruned_captions == 3
    assert values(captioned, "caption") == [None] * 3


def test_tags_do_not_hide_that_all_texts_are_removed(captioned: World) -> None:
    """Regression: all of few captions were removed beside many images with tags alone."""
    tagged = [f"tagged/{number:02}.jpg" for number in range(20)]
    fill(captioned.bucket, tagged)
    table = "\n".join(["key,caption,tags", *(f"{name},,x" for name in tagged)]) + "\n"
    captioned.sync("--captions", write(captioned, "tagged.csv", table))
    with pytest.raises(PruneRefusedError, match=r"3 of the 3 captions of these sources \(100%\)"):
        captioned.sync("--captions", write(captioned, "tagged.csv", table), "--prune-captions")
    texts = write_captions(captioned, "texts.json", _00="zero", _01="one", _02="two")
    with pytest.raises(PruneRefusedError, match="tags or fields of 20 of the 23 images with any of these sources"):
        captioned.sync("--captions", texts, "--prune-captions")
    assert values(captioned, "caption") == ["zero", "one", "two"]
    assert captioned.points[tagged[0]].payload["tags"] == ["x"]


def test_the_ratio_holds_for_texts_and_whole_records_together(world: World) -> None:
    names = [f"{number:02}.jpg" for number in range(10)]
    fill(world.bucket, names)
    header = ["key,caption,tags"]
    before = [*header, *(f"{name},text,x" for name in names[:5]), *(f"{name},,x" for name in names[5:])]
    world.sync("--captions", write(world, "captions.csv", "\n".join(before)))
    after = [*header, "00.jpg,,x", *before[2:9]]  # one text of five, and two records of ten
    write(world, "captions.csv", "\n".join(after))
    with pytest.raises(PruneRefusedError, match="3 of the 10 images with any"):
        world.sync("--captions", f"{world.source}/captions.csv", "--prune-captions")


def test_rows_that_say_nothing_are_counted_in_the_log(captioned: World, caplog: pytest.LogCaptureFixture) -> None:
    captioned.sync("--captions", write(captioned, "blank.csv", BLANK))
    assert "without caption, tags and fields: 3; they change nothing" in caplog.text
